#include "textflag.h"

// func vfork(args *cloneArgs, size uintptr) (errno uintptr)
//
// The parent must not come back: its stack is the child's meanwhile.
TEXT ·vfork(SB), NOSPLIT|NOFRAME, $0-24
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	$435, R8 // clone3
	SVC
	CMP	$0, R0
	BEQ	done
	BGT	parent
	NEG	R0, R0
done:
	MOVD	R0, errno+16(FP)
	RET
parent:
	MOVD	$0, R0
	MOVD	$0xffffffff, R1
	MOVD	$0, R2
	MOVD	$436, R8 // close_range
	SVC
	MOVD	$0, R0
	MOVD	$94, R8 // exit_group
	SVC
	B	parent
