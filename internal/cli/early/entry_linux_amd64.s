#include "textflag.h"

#define SYS_readlink 89
#define SYS_execve 59

// Stack of entry: a path, and room for the name at its end.
#define PATH 4096
#define NAME 16

// entry is where the program begins, before Go's runtime: the linker is told so.
// A build becomes wherry-build here; all else, and what fails, goes on as ever.
//
// On the stack are the number of arguments, these, nil, the environment, nil.
TEXT ·entry(SB), NOSPLIT|NOFRAME, $0
	MOVQ SP, R12
	CMPQ 0(R12), $2
	JLT  other

	// build, buildx or builder
	MOVQ 16(R12), BX
	CMPL 0(BX), $0x6c697562 // buil
	JNE  other
	CMPB 4(BX), $'d'
	JNE  other
	CMPB 5(BX), $0
	JEQ  become
	CMPB 5(BX), $'x'
	JEQ  six
	CMPB 5(BX), $'e'
	JNE  other
	CMPB 6(BX), $'r'
	JNE  other
	CMPB 7(BX), $0
	JEQ  become
	JMP  other

six:
	CMPB 6(BX), $0
	JNE  other

become:
	// This program's path.
	SUBQ  $(PATH+NAME), SP
	MOVQ  $SYS_readlink, AX
	LEAQ  ·self(SB), DI
	MOVQ  SP, SI
	MOVQ  $PATH, DX
	SYSCALL
	CMPQ  AX, $0
	JLE   other
	CMPQ  AX, $PATH
	JGE   other // it may be longer

	// What is behind its last slash is replaced.
last:
	CMPB -1(SI)(AX*1), $'/'
	JEQ  name
	DECQ AX
	JNZ  last
	JMP  other

name:
	ADDQ AX, SI
	MOVQ ·sibling+0(SB), BX
	MOVQ BX, 0(SI)
	MOVQ ·sibling+8(SB), BX
	MOVQ BX, 8(SI)

	MOVQ SP, DI
	LEAQ 8(R12), SI
	MOVQ 0(R12), DX
	LEAQ 8(SI)(DX*8), DX
	MOVQ $SYS_execve, AX
	SYSCALL

other:
	MOVQ R12, SP
	JMP  _rt0_amd64_linux(SB)

DATA ·self+0(SB)/8, $"/proc/se"
DATA ·self+8(SB)/8, $"lf/exe\x00\x00"
GLOBL ·self(SB), NOPTR|RODATA, $16

DATA ·sibling+0(SB)/8, $"wherry-b"
DATA ·sibling+8(SB)/8, $"uild\x00\x00\x00\x00"
GLOBL ·sibling(SB), NOPTR|RODATA, $16
