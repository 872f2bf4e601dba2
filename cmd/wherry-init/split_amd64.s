#include "textflag.h"

// func vfork(args *cloneArgs, size uintptr) (errno uintptr)
//
// The parent must not come back: its stack is the child's meanwhile.
TEXT ·vfork(SB), NOSPLIT|NOFRAME, $0-24
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVL	$435, AX // clone3
	SYSCALL
	CMPQ	AX, $0
	JEQ	done
	JGT	parent
	NEGQ	AX
done:
	MOVQ	AX, errno+16(FP)
	RET
parent:
	XORL	DI, DI
	MOVL	$0xffffffff, SI
	XORL	DX, DX
	MOVL	$436, AX // close_range
	SYSCALL
	XORL	DI, DI
	MOVL	$231, AX // exit_group
	SYSCALL
	JMP	parent
