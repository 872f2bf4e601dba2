#include "textflag.h"

#define SYS_readlinkat 78
#define SYS_execve 221
#define AT_FDCWD -100

// Stack of entry: a path, and room for the name at its end.
#define PATH 4096
#define NAME 16

// entry is where the program begins, before Go's runtime: the linker is told so.
// A build becomes wherry-build here; all else, and what fails, goes on as ever.
//
// On the stack are the number of arguments, these, nil, the environment, nil.
TEXT ·entry(SB), NOSPLIT|NOFRAME, $0
	MOVD RSP, R19
	MOVD 0(R19), R0
	CMP  $2, R0
	BLT  other

	// build, buildx or builder
	MOVD  16(R19), R1
	MOVWU 0(R1), R2
	MOVD  $0x6c697562, R3 // buil
	CMPW  R3, R2
	BNE   other
	MOVBU 4(R1), R2
	CMPW  $'d', R2
	BNE   other
	MOVBU 5(R1), R2
	CBZW  R2, become
	CMPW  $'x', R2
	BEQ   six
	CMPW  $'e', R2
	BNE   other
	MOVBU 6(R1), R2
	CMPW  $'r', R2
	BNE   other
	MOVBU 7(R1), R2
	CBZW  R2, become
	B     other

six:
	MOVBU 6(R1), R2
	CBNZW R2, other

become:
	// This program's path.
	MOVD $(PATH+NAME), R3
	SUB  R3, RSP
	MOVD RSP, R20
	MOVD $AT_FDCWD, R0
	MOVD $·self(SB), R1
	MOVD R20, R2
	MOVD $PATH, R3
	MOVD $SYS_readlinkat, R8
	SVC
	CMP  $0, R0
	BLE  other
	CMP  $PATH, R0
	BGE  other // it may be longer

	// What is behind its last slash is replaced.
	ADD R20, R0, R5

last:
	MOVBU -1(R5), R2
	CMPW  $'/', R2
	BEQ   name
	SUB   $1, R5
	CMP   R20, R5
	BNE   last
	B     other

name:
	MOVD ·sibling+0(SB), R2
	MOVD R2, 0(R5)
	MOVD ·sibling+8(SB), R2
	MOVD R2, 8(R5)

	MOVD R20, R0
	ADD  $8, R19, R1
	MOVD 0(R19), R2
	ADD  R2<<3, R1, R2
	ADD  $8, R2
	MOVD $SYS_execve, R8
	SVC

other:
	MOVD R19, RSP
	B    _rt0_arm64_linux(SB)

DATA ·self+0(SB)/8, $"/proc/se"
DATA ·self+8(SB)/8, $"lf/exe\x00\x00"
GLOBL ·self(SB), NOPTR|RODATA, $16

DATA ·sibling+0(SB)/8, $"wherry-b"
DATA ·sibling+8(SB)/8, $"uild\x00\x00\x00\x00"
GLOBL ·sibling(SB), NOPTR|RODATA, $16
