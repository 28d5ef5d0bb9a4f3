	.file	"<string>"
	.section	.ltext,"axl",@progbits
	.globl	_ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb
	.p2align	4
	.type	_ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb,@function
_ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb:
	pushq	%rbp
	pushq	%r15
	pushq	%r14
	pushq	%r13
	pushq	%r12
	pushq	%rbx
	subq	$72, %rsp
	cmpq	$0, 360(%rsp)
	movq	%rdi, -48(%rsp)
	jle	.LBB0_32
	movq	176(%rsp), %r14
	movq	256(%rsp), %rax
	movq	216(%rsp), %rcx
	movq	128(%rsp), %r9
	movq	352(%rsp), %rdx
	movq	168(%rsp), %r8
	movq	344(%rsp), %rsi
	movq	304(%rsp), %rdi
	movabsq	$9223372036854775800, %r11
	vxorps	%xmm0, %xmm0, %xmm0
	leaq	6(%r11), %r15
	leaq	(%rcx,%rax,4), %r10
	leaq	32(%rcx,%rax,4), %rbp
	leaq	(%r14,%r14,2), %rax
	andq	%r14, %r11
	leaq	(%rdi,%rsi,4), %r12
	leaq	(,%r14,4), %rdi
	movl	%r14d, %ebx
	andl	$7, %ebx
	andq	%r14, %r15
	movq	%r11, 32(%rsp)
	movq	%r14, %r11
	shlq	$4, %r11
	movq	%rbx, 24(%rsp)
	movq	%r15, -72(%rsp)
	leaq	4(%r9,%rax,4), %rax
	movq	%r11, 64(%rsp)
	leaq	4(%r9), %r11
	movq	%rdi, -64(%rsp)
	leaq	4(%r9,%r14,8), %rdi
	movq	%r10, 16(%rsp)
	movq	%r12, (%rsp)
	movq	%r12, -120(%rsp)
	movq	%r11, -8(%rsp)
	leaq	4(%r9,%r14,4), %r11
	movq	%rax, 8(%rsp)
	movq	%rdx, %rax
	movq	%r8, %rdx
	negq	%rdx
	movq	%rdi, -24(%rsp)
	leaq	28(%r9), %rdi
	movq	%rdx, -40(%rsp)
	movq	264(%rsp), %rdx
	movq	%r11, -16(%rsp)
	leaq	(,%rax,4), %r11
	movq	%rdi, -32(%rsp)
	movq	%r11, -112(%rsp)
	leaq	(,%rdx,8), %r8
	leaq	(,%rdx,4), %rbx
	xorl	%edx, %edx
	movq	%r8, -80(%rsp)
	jmp	.LBB0_2
	.p2align	4
.LBB0_31:
	movq	-96(%rsp), %rdx
	movq	-128(%rsp), %r10
	addq	$64, -120(%rsp)
	movq	-72(%rsp), %r15
	movq	-80(%rsp), %r8
	addq	$64, %rbp
	addq	$16, %rdx
	addq	$64, %r10
	cmpq	360(%rsp), %rdx
	jge	.LBB0_32
.LBB0_2:
	cmpq	$4, 168(%rsp)
	movq	%r10, -128(%rsp)
	movq	%rbp, -88(%rsp)
	movq	%rdx, -96(%rsp)
	jl	.LBB0_3
	movq	16(%rsp), %rcx
	movq	(%rsp), %rsi
	movq	8(%rsp), %r11
	movq	-8(%rsp), %r9
	xorl	%ebp, %ebp
	leaq	(%rcx,%rdx,4), %rcx
	leaq	(%rsi,%rdx,4), %rdi
	movq	-16(%rsp), %rsi
	movq	%rcx, 40(%rsp)
	movq	-24(%rsp), %rcx
	jmp	.LBB0_14
	.p2align	4
.LBB0_53:
	movq	64(%rsp), %rdx
	leaq	4(%rbp), %r14
	vmovups	%ymm1, 32(%rdi,%r10,4)
	addq	$8, %rbp
	addq	%rdx, %r9
	addq	%rdx, %rsi
	addq	%rdx, %rcx
	addq	%rdx, %r11
	cmpq	168(%rsp), %rbp
	movq	%r14, %rbp
	jg	.LBB0_4
.LBB0_14:
	movq	%rbp, %r13
	movq	%rbp, %rdx
	movq	%rbp, %r10
	orq	$1, %r13
	orq	$2, %rdx
	orq	$3, %r10
	cmpq	$0, 176(%rsp)
	jle	.LBB0_15
	cmpq	$1, 176(%rsp)
	vxorps	%xmm1, %xmm1, %xmm1
	movq	%rdx, -56(%rsp)
	movq	%r13, -104(%rsp)
	jne	.LBB0_33
	xorl	%r14d, %r14d
	vxorps	%xmm2, %xmm2, %xmm2
	vxorps	%xmm3, %xmm3, %xmm3
	vxorps	%xmm4, %xmm4, %xmm4
	vxorps	%xmm5, %xmm5, %xmm5
	vxorps	%xmm6, %xmm6, %xmm6
	vxorps	%xmm7, %xmm7, %xmm7
	vxorps	%xmm8, %xmm8, %xmm8
	jmp	.LBB0_36
	.p2align	4
.LBB0_15:
	vxorps	%xmm8, %xmm8, %xmm8
	vxorps	%xmm7, %xmm7, %xmm7
	vxorps	%xmm6, %xmm6, %xmm6
	vxorps	%xmm5, %xmm5, %xmm5
	vxorps	%xmm4, %xmm4, %xmm4
	vxorps	%xmm3, %xmm3, %xmm3
	vxorps	%xmm2, %xmm2, %xmm2
	vxorps	%xmm1, %xmm1, %xmm1
	jmp	.LBB0_37
	.p2align	4
.LBB0_33:
	movq	-88(%rsp), %r13
	movq	264(%rsp), %rdx
	xorl	%r14d, %r14d
	vxorps	%xmm2, %xmm2, %xmm2
	vxorps	%xmm3, %xmm3, %xmm3
	vxorps	%xmm4, %xmm4, %xmm4
	vxorps	%xmm5, %xmm5, %xmm5
	vxorps	%xmm6, %xmm6, %xmm6
	vxorps	%xmm7, %xmm7, %xmm7
	vxorps	%xmm8, %xmm8, %xmm8
	.p2align	4
.LBB0_34:
	vmovups	-32(%r13), %ymm9
	vbroadcastss	-4(%rsi,%r14,4), %ymm12
	vmovups	(%r13), %ymm10
	vbroadcastss	-4(%r9,%r14,4), %ymm11
	vbroadcastss	-4(%rcx,%r14,4), %ymm13
	vfmadd231ps	%ymm9, %ymm12, %ymm6
	vfmadd231ps	%ymm12, %ymm10, %ymm5
	vbroadcastss	-4(%r11,%r14,4), %ymm12
	vfmadd231ps	%ymm9, %ymm11, %ymm8
	vfmadd231ps	%ymm11, %ymm10, %ymm7
	vfmadd231ps	%ymm9, %ymm13, %ymm4
	vfmadd231ps	%ymm13, %ymm10, %ymm3
	vbroadcastss	(%r9,%r14,4), %ymm13
	vfmadd231ps	%ymm9, %ymm12, %ymm2
	vfmadd231ps	%ymm10, %ymm12, %ymm1
	vmovups	-32(%r13,%rdx,4), %ymm9
	vmovups	(%r13,%rdx,4), %ymm10
	vbroadcastss	(%rsi,%r14,4), %ymm12
	addq	%r8, %r13
	vfmadd231ps	%ymm9, %ymm13, %ymm8
	vfmadd231ps	%ymm13, %ymm10, %ymm7
	vbroadcastss	(%rcx,%r14,4), %ymm13
	vfmadd231ps	%ymm9, %ymm12, %ymm6
	vfmadd231ps	%ymm12, %ymm10, %ymm5
	vbroadcastss	(%r11,%r14,4), %ymm12
	addq	$2, %r14
	vfmadd231ps	%ymm9, %ymm13, %ymm4
	vfmadd231ps	%ymm13, %ymm10, %ymm3
	vfmadd231ps	%ymm9, %ymm12, %ymm2
	vfmadd231ps	%ymm10, %ymm12, %ymm1
	cmpq	%r14, %r15
	jne	.LBB0_34
	movq	176(%rsp), %rdx
	movq	-104(%rsp), %r13
	testb	$1, %dl
	movq	-56(%rsp), %rdx
	je	.LBB0_37
.LBB0_36:
	movq	%r10, %r13
	movq	176(%rsp), %r15
	movq	%r10, 56(%rsp)
	movq	-104(%rsp), %r10
	movq	%rdx, %r8
	movq	%rbp, %rdx
	movq	%rax, %r12
	movq	40(%rsp), %rax
	imulq	%r15, %r13
	imulq	%r15, %r8
	imulq	%r15, %r10
	imulq	%r15, %rdx
	movq	128(%rsp), %r15
	leaq	(%r15,%rdx,4), %rdx
	leaq	(%r15,%r10,4), %r10
	leaq	(%r15,%r8,4), %r8
	leaq	(%r15,%r13,4), %r13
	movq	%r14, %r15
	imulq	264(%rsp), %r15
	vbroadcastss	(%r10,%r14,4), %ymm12
	movq	%rdx, 48(%rsp)
	vbroadcastss	(%r8,%r14,4), %ymm13
	movq	-56(%rsp), %rdx
	movq	56(%rsp), %r10
	movq	-80(%rsp), %r8
	vmovups	(%rax,%r15,4), %ymm9
	vmovups	32(%rax,%r15,4), %ymm10
	movq	%r12, %rax
	movq	48(%rsp), %r12
	movq	-72(%rsp), %r15
	vbroadcastss	(%r12,%r14,4), %ymm11
	vfmadd231ps	%ymm9, %ymm12, %ymm6
	vfmadd231ps	%ymm12, %ymm10, %ymm5
	vbroadcastss	(%r13,%r14,4), %ymm12
	movq	-104(%rsp), %r13
	vfmadd231ps	%ymm9, %ymm13, %ymm4
	vfmadd231ps	%ymm13, %ymm10, %ymm3
	vfmadd231ps	%ymm9, %ymm11, %ymm8
	vfmadd231ps	%ymm11, %ymm10, %ymm7
	vfmadd231ps	%ymm9, %ymm12, %ymm2
	vfmadd231ps	%ymm10, %ymm12, %ymm1
.LBB0_37:
	movq	%rbp, %r14
	imulq	%rax, %r14
	imulq	%rax, %r13
	imulq	%rax, %rdx
	imulq	%rax, %r10
	cmpb	$0, 368(%rsp)
	jne	.LBB0_38
	vmovups	%ymm8, (%rdi,%r14,4)
	jne	.LBB0_40
.LBB0_41:
	vmovups	%ymm7, 32(%rdi,%r14,4)
	jne	.LBB0_42
.LBB0_43:
	vmovups	%ymm6, (%rdi,%r13,4)
	jne	.LBB0_44
.LBB0_45:
	vmovups	%ymm5, 32(%rdi,%r13,4)
	jne	.LBB0_46
.LBB0_47:
	vmovups	%ymm4, (%rdi,%rdx,4)
	jne	.LBB0_48
.LBB0_49:
	vmovups	%ymm3, 32(%rdi,%rdx,4)
	jne	.LBB0_50
.LBB0_51:
	vmovups	%ymm2, (%rdi,%r10,4)
	je	.LBB0_53
	jmp	.LBB0_52
	.p2align	4
.LBB0_38:
	vmaxps	%ymm0, %ymm8, %ymm8
	vmovups	%ymm8, (%rdi,%r14,4)
	je	.LBB0_41
.LBB0_40:
	vmaxps	%ymm0, %ymm7, %ymm7
	vmovups	%ymm7, 32(%rdi,%r14,4)
	je	.LBB0_43
.LBB0_42:
	vmaxps	%ymm0, %ymm6, %ymm6
	vmovups	%ymm6, (%rdi,%r13,4)
	je	.LBB0_45
.LBB0_44:
	vmaxps	%ymm0, %ymm5, %ymm5
	vmovups	%ymm5, 32(%rdi,%r13,4)
	je	.LBB0_47
.LBB0_46:
	vmaxps	%ymm0, %ymm4, %ymm4
	vmovups	%ymm4, (%rdi,%rdx,4)
	je	.LBB0_49
.LBB0_48:
	vmaxps	%ymm0, %ymm3, %ymm3
	vmovups	%ymm3, 32(%rdi,%rdx,4)
	je	.LBB0_51
.LBB0_50:
	vmaxps	%ymm0, %ymm2, %ymm2
	vmovups	%ymm2, (%rdi,%r10,4)
	je	.LBB0_53
.LBB0_52:
	vmaxps	%ymm0, %ymm1, %ymm1
	jmp	.LBB0_53
	.p2align	4
.LBB0_3:
	xorl	%r14d, %r14d
.LBB0_4:
	movq	%r14, %rcx
	subq	168(%rsp), %rcx
	movq	32(%rsp), %r15
	movq	24(%rsp), %r13
	movq	-88(%rsp), %rbp
	movq	264(%rsp), %r11
	jge	.LBB0_31
	cmpq	$0, 176(%rsp)
	jle	.LBB0_6
	movq	344(%rsp), %rcx
	movq	-96(%rsp), %rdx
	movq	-32(%rsp), %rsi
	addq	%rdx, %rcx
	movq	304(%rsp), %rdx
	leaq	(%rdx,%rcx,4), %rcx
	movq	-64(%rsp), %rdx
	imulq	%r14, %rdx
	addq	%rdx, %rsi
	addq	128(%rsp), %rdx
	jmp	.LBB0_19
	.p2align	4
.LBB0_30:
	movq	-64(%rsp), %rdi
	incq	%r14
	vmovups	%ymm1, 32(%rcx,%r8,4)
	addq	%rdi, %rsi
	addq	%rdi, %rdx
	cmpq	168(%rsp), %r14
	je	.LBB0_31
.LBB0_19:
	cmpq	$8, 176(%rsp)
	vxorps	%xmm1, %xmm1, %xmm1
	jae	.LBB0_21
	movq	-128(%rsp), %rdi
	xorl	%r8d, %r8d
	vxorps	%xmm2, %xmm2, %xmm2
	jmp	.LBB0_24
	.p2align	4
.LBB0_21:
	movq	-128(%rsp), %r9
	xorl	%r8d, %r8d
	vxorps	%xmm2, %xmm2, %xmm2
	.p2align	4
.LBB0_22:
	vbroadcastss	-28(%rsi,%r8,4), %ymm3
	leaq	(%r9,%rbx), %r10
	vfmadd231ps	(%r9), %ymm3, %ymm2
	vfmadd231ps	32(%r9), %ymm3, %ymm1
	vbroadcastss	-24(%rsi,%r8,4), %ymm3
	vfmadd231ps	(%r9,%rbx), %ymm3, %ymm2
	vfmadd231ps	32(%r9,%rbx), %ymm3, %ymm1
	vbroadcastss	-20(%rsi,%r8,4), %ymm3
	leaq	(%r10,%rbx), %r9
	vfmadd231ps	(%rbx,%r10), %ymm3, %ymm2
	vfmadd231ps	32(%rbx,%r10), %ymm3, %ymm1
	vbroadcastss	-16(%rsi,%r8,4), %ymm3
	leaq	(%r9,%rbx), %r10
	vfmadd231ps	(%rbx,%r9), %ymm3, %ymm2
	vfmadd231ps	32(%rbx,%r9), %ymm3, %ymm1
	vbroadcastss	-12(%rsi,%r8,4), %ymm3
	leaq	(%r10,%rbx), %r9
	vfmadd231ps	(%rbx,%r10), %ymm3, %ymm2
	vfmadd231ps	32(%rbx,%r10), %ymm3, %ymm1
	vbroadcastss	-8(%rsi,%r8,4), %ymm3
	leaq	(%r9,%rbx), %r10
	leaq	(%r10,%rbx), %r11
	vfmadd231ps	(%rbx,%r9), %ymm3, %ymm2
	vfmadd231ps	32(%rbx,%r9), %ymm3, %ymm1
	vbroadcastss	-4(%rsi,%r8,4), %ymm3
	leaq	(%rbx,%rbx), %r9
	addq	%r11, %r9
	vfmadd231ps	(%rbx,%r10), %ymm3, %ymm2
	vfmadd231ps	32(%rbx,%r10), %ymm3, %ymm1
	vbroadcastss	(%rsi,%r8,4), %ymm3
	addq	$8, %r8
	vfmadd231ps	(%rbx,%r11), %ymm3, %ymm2
	vfmadd231ps	32(%rbx,%r11), %ymm3, %ymm1
	cmpq	%r8, %r15
	jne	.LBB0_22
	movq	264(%rsp), %r11
	movq	-128(%rsp), %rdi
	testq	%r13, %r13
	je	.LBB0_26
.LBB0_24:
	leaq	(%rdx,%r8,4), %r9
	imulq	%r11, %r8
	xorl	%r10d, %r10d
	.p2align	4
.LBB0_25:
	vbroadcastss	(%r9,%r10,4), %ymm3
	incq	%r10
	vfmadd231ps	(%rdi,%r8,4), %ymm3, %ymm2
	vfmadd231ps	(%rbp,%r8,4), %ymm3, %ymm1
	addq	%r11, %r8
	cmpq	%r10, %r13
	jne	.LBB0_25
.LBB0_26:
	movq	%r14, %r8
	imulq	%rax, %r8
	cmpb	$0, 368(%rsp)
	je	.LBB0_28
	vmaxps	%ymm0, %ymm2, %ymm2
.LBB0_28:
	vmovups	%ymm2, (%rcx,%r8,4)
	je	.LBB0_30
	vmaxps	%ymm0, %ymm1, %ymm1
	jmp	.LBB0_30
.LBB0_6:
	movq	168(%rsp), %rdx
	subl	%r14d, %edx
	andl	$7, %edx
	je	.LBB0_10
	movq	-112(%rsp), %r9
	negq	%rdx
	xorl	%r8d, %r8d
	movq	%r9, %rsi
	imulq	%r14, %rsi
	addq	-120(%rsp), %rsi
	.p2align	4
.LBB0_8:
	vmovups	%ymm0, 32(%rsi)
	vmovups	%ymm0, (%rsi)
	decq	%r8
	addq	%r9, %rsi
	cmpq	%r8, %rdx
	jne	.LBB0_8
	subq	%r8, %r14
.LBB0_10:
	cmpq	$-8, %rcx
	ja	.LBB0_31
	movq	-112(%rsp), %rcx
	imulq	%r14, %rcx
	addq	-120(%rsp), %rcx
	addq	-40(%rsp), %r14
	.p2align	4
.LBB0_12:
	movq	-112(%rsp), %r8
	vmovups	%ymm0, 32(%rcx)
	vmovups	%ymm0, (%rcx)
	leaq	(%rcx,%r8), %rdx
	vmovups	%ymm0, 32(%rcx,%r8)
	vmovups	%ymm0, (%rcx,%r8)
	leaq	(%rdx,%r8), %rcx
	vmovups	%ymm0, 32(%r8,%rdx)
	vmovups	%ymm0, (%r8,%rdx)
	leaq	(%rcx,%r8), %rdx
	vmovups	%ymm0, 32(%r8,%rcx)
	vmovups	%ymm0, (%r8,%rcx)
	leaq	(%rdx,%r8), %rcx
	vmovups	%ymm0, 32(%r8,%rdx)
	vmovups	%ymm0, (%r8,%rdx)
	leaq	(%rcx,%r8), %rdx
	vmovups	%ymm0, 32(%r8,%rcx)
	vmovups	%ymm0, (%r8,%rcx)
	leaq	(%r8,%r8), %rcx
	leaq	(%rdx,%r8), %rsi
	vmovups	%ymm0, 32(%r8,%rdx)
	vmovups	%ymm0, (%r8,%rdx)
	addq	%rsi, %rcx
	addq	$8, %r14
	vmovups	%ymm0, 32(%r8,%rsi)
	vmovups	%ymm0, (%r8,%rsi)
	jne	.LBB0_12
	jmp	.LBB0_31
.LBB0_32:
	movq	-48(%rsp), %rax
	movq	$0, (%rax)
	xorl	%eax, %eax
	addq	$72, %rsp
	popq	%rbx
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	popq	%rbp
	vzeroupper
	retq
.Lfunc_end0:
	.size	_ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb, .Lfunc_end0-_ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb

	.globl	_ZN7cpython3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb
	.p2align	4
	.type	_ZN7cpython3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb,@function
_ZN7cpython3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	pushq	%r15
	.cfi_def_cfa_offset 24
	pushq	%r14
	.cfi_def_cfa_offset 32
	pushq	%r13
	.cfi_def_cfa_offset 40
	pushq	%r12
	.cfi_def_cfa_offset 48
	pushq	%rbx
	.cfi_def_cfa_offset 56
	subq	$408, %rsp
	.cfi_def_cfa_offset 464
	.cfi_offset %rbx, -56
	.cfi_offset %r12, -48
	.cfi_offset %r13, -40
	.cfi_offset %r14, -32
	.cfi_offset %r15, -24
	.cfi_offset %rbp, -16
	movq	%rsi, %rdi
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	leaq	96(%rsp), %r13
	xorl	%ebx, %ebx
	leaq	104(%rsp), %rbp
	leaq	112(%rsp), %r10
	leaq	120(%rsp), %r11
	leaq	128(%rsp), %r14
	leaq	136(%rsp), %r12
	leaq	144(%rsp), %r15
	movabsq	$".const.make_dense.<locals>.dense", %rsi
	movl	$11, %edx
	movl	$11, %ecx
	leaq	176(%rsp), %r8
	leaq	168(%rsp), %r9
	xorl	%eax, %eax
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	pushq	%r11
	.cfi_adjust_cfa_offset 8
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	leaq	208(%rsp), %r10
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	leaq	224(%rsp), %r10
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	movabsq	$PyArg_UnpackTuple, %r10
	callq	*%r10
	addq	$80, %rsp
	.cfi_adjust_cfa_offset -80
	vxorps	%xmm0, %xmm0, %xmm0
	vmovups	%ymm0, 256(%rsp)
	vmovups	%ymm0, 288(%rsp)
	movq	$0, 320(%rsp)
	vmovups	%ymm0, 176(%rsp)
	vmovups	%ymm0, 208(%rsp)
	movq	$0, 240(%rsp)
	testl	%eax, %eax
	je	.LBB1_46
	movabsq	$_ZN08NumbaEnv3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb, %rax
	cmpq	$0, (%rax)
	je	.LBB1_2
	movq	168(%rsp), %rdi
	movabsq	$NRT_adapt_ndarray_from_python, %r12
	leaq	336(%rsp), %rsi
	vmovups	%ymm0, 336(%rsp)
	vmovups	%ymm0, 368(%rsp)
	movq	$0, 400(%rsp)
	vzeroupper
	callq	*%r12
	cmpq	$4, 360(%rsp)
	setne	%cl
	testl	%eax, %eax
	setne	%bl
	orb	%cl, %bl
	cmpb	$1, %bl
	je	.LBB1_4
	testb	%bl, %bl
	jne	.LBB1_6
.LBB1_7:
	movq	368(%rsp), %rax
	movq	160(%rsp), %rdi
	movq	336(%rsp), %r15
	movabsq	$PyNumber_Long, %r13
	movq	%rax, 80(%rsp)
	callq	*%r13
	movq	%rax, %rbx
	movabsq	$PyLong_AsLongLong, %rax
	movabsq	$Py_DecRef, %rbp
	testq	%rbx, %rbx
	je	.LBB1_8
	movq	%rbx, %rdi
	callq	*%rax
	movq	%rbx, %rdi
	movq	%rax, 48(%rsp)
	movq	%rbp, %r14
	callq	*%rbp
	movabsq	$PyErr_Occurred, %rbp
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_22
.LBB1_11:
	movq	152(%rsp), %rdi
	callq	*%r13
	testq	%rax, %rax
	je	.LBB1_12
	movq	%rax, %rbx
	movq	%rax, %rdi
	movabsq	$PyLong_AsLongLong, %rax
	callq	*%rax
	movq	%rbx, %rdi
	movq	%rax, 40(%rsp)
	callq	*%r14
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_22
.LBB1_15:
	movq	144(%rsp), %rdi
	leaq	256(%rsp), %rsi
	vxorps	%xmm0, %xmm0, %xmm0
	vmovups	%ymm0, 256(%rsp)
	vmovups	%ymm0, 288(%rsp)
	movq	$0, 320(%rsp)
	vzeroupper
	callq	*%r12
	cmpq	$4, 280(%rsp)
	setne	%cl
	testl	%eax, %eax
	setne	%bl
	orb	%cl, %bl
	cmpb	$1, %bl
	je	.LBB1_16
	testb	%bl, %bl
	jne	.LBB1_22
.LBB1_18:
	movq	256(%rsp), %rax
	movq	288(%rsp), %rcx
	movq	136(%rsp), %rdi
	movq	%rax, 56(%rsp)
	movq	%rcx, 72(%rsp)
	callq	*%r13
	testq	%rax, %rax
	je	.LBB1_19
	movq	%rax, %rbx
	movq	%rax, %rdi
	movabsq	$PyLong_AsLongLong, %rax
	callq	*%rax
	movq	%rbx, %rdi
	movq	%rax, 16(%rsp)
	callq	*%r14
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_21
.LBB1_25:
	movq	128(%rsp), %rdi
	callq	*%r13
	testq	%rax, %rax
	je	.LBB1_26
	movq	%rax, %rbx
	movq	%rax, %rdi
	movabsq	$PyLong_AsLongLong, %rax
	callq	*%rax
	movq	%rbx, %rdi
	movq	%rax, 8(%rsp)
	callq	*%r14
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_21
.LBB1_29:
	movq	120(%rsp), %rdi
	leaq	176(%rsp), %rsi
	vxorps	%xmm0, %xmm0, %xmm0
	vmovups	%ymm0, 176(%rsp)
	vmovups	%ymm0, 208(%rsp)
	movq	$0, 240(%rsp)
	vzeroupper
	callq	*%r12
	cmpq	$4, 200(%rsp)
	setne	%cl
	testl	%eax, %eax
	setne	%bl
	orb	%cl, %bl
	cmpb	$1, %bl
	je	.LBB1_30
	testb	%bl, %bl
	jne	.LBB1_21
.LBB1_32:
	movq	176(%rsp), %rax
	movq	208(%rsp), %rcx
	movq	112(%rsp), %rdi
	movq	%r15, 32(%rsp)
	movq	%rax, 24(%rsp)
	movq	%rcx, 64(%rsp)
	callq	*%r13
	testq	%rax, %rax
	je	.LBB1_33
	movabsq	$PyLong_AsLongLong, %r12
	movq	%rax, %rdi
	movq	%rax, %r15
	callq	*%r12
	movq	%r15, %rdi
	movq	%rax, %rbx
	callq	*%r14
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_20
.LBB1_36:
	movq	104(%rsp), %rdi
	callq	*%r13
	testq	%rax, %rax
	je	.LBB1_37
	movq	%rax, %r12
	movq	%rax, %rdi
	movabsq	$PyLong_AsLongLong, %rax
	callq	*%rax
	movq	%r12, %rdi
	movq	%rax, %r15
	callq	*%r14
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_20
.LBB1_40:
	movq	96(%rsp), %rdi
	callq	*%r13
	testq	%rax, %rax
	je	.LBB1_41
	movq	%rax, %r13
	movq	%rax, %rdi
	movabsq	$PyLong_AsLongLong, %rax
	callq	*%rax
	movq	%r13, %rdi
	movq	%rax, %r12
	callq	*%r14
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_20
.LBB1_44:
	movq	88(%rsp), %rdi
	movabsq	$PyObject_IsTrue, %rax
	callq	*%rax
	movl	%eax, %r13d
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_20
	xorl	%ebp, %ebp
	testl	%r13d, %r13d
	movabsq	$PyEval_SaveThread, %rax
	setne	%bpl
	callq	*%rax
	movq	%rax, %r13
	subq	$256, %rsp
	.cfi_adjust_cfa_offset 256
	movq	272(%rsp), %rdi
	movq	264(%rsp), %r10
	movq	320(%rsp), %rax
	movl	%ebp, 240(%rsp)
	movq	%r12, 232(%rsp)
	movq	%r15, 224(%rsp)
	movq	%rbx, 216(%rsp)
	movq	%rdi, 128(%rsp)
	movq	296(%rsp), %rdi
	movq	%r10, 136(%rsp)
	movq	328(%rsp), %r10
	movq	%rax, 176(%rsp)
	movabsq	$_ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb, %rax
	movq	%rdi, 48(%rsp)
	movq	336(%rsp), %rdi
	movq	%r10, 88(%rsp)
	movq	304(%rsp), %r10
	movq	%rdi, (%rsp)
	leaq	584(%rsp), %rdi
	movq	%r10, 40(%rsp)
	callq	*%rax
	addq	$256, %rsp
	.cfi_adjust_cfa_offset -256
	movabsq	$PyEval_RestoreThread, %rax
	movq	%r13, %rdi
	callq	*%rax
	movq	32(%rsp), %rdi
	movabsq	$NRT_decref, %rbx
	callq	*%rbx
	movq	56(%rsp), %rdi
	callq	*%rbx
	movq	24(%rsp), %rdi
	callq	*%rbx
	movabsq	$_Py_NoneStruct, %rbx
	movabsq	$Py_IncRef, %rax
	movq	%rbx, %rdi
	callq	*%rax
.LBB1_46:
	movq	%rbx, %rax
	addq	$408, %rsp
	.cfi_def_cfa_offset 56
	popq	%rbx
	.cfi_def_cfa_offset 48
	popq	%r12
	.cfi_def_cfa_offset 40
	popq	%r13
	.cfi_def_cfa_offset 32
	popq	%r14
	.cfi_def_cfa_offset 24
	popq	%r15
	.cfi_def_cfa_offset 16
	popq	%rbp
	.cfi_def_cfa_offset 8
	vzeroupper
	retq
.LBB1_2:
	.cfi_def_cfa_offset 464
	movabsq	$PyExc_RuntimeError, %rdi
	movabsq	$".const.missing Environment: _ZN08NumbaEnv3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb", %rsi
	movabsq	$PyErr_SetString, %rax
	vzeroupper
	callq	*%rax
	xorl	%ebx, %ebx
	jmp	.LBB1_46
.LBB1_4:
	movabsq	$PyExc_TypeError, %rdi
	movabsq	$".const.can't unbox array from PyObject into native value.  The object maybe of a different type", %rsi
	movabsq	$PyErr_SetString, %rax
	callq	*%rax
	testb	%bl, %bl
	je	.LBB1_7
.LBB1_6:
	xorl	%ebx, %ebx
	jmp	.LBB1_46
.LBB1_8:
	movq	%rbp, %r14
	movq	$0, 48(%rsp)
	movabsq	$PyErr_Occurred, %rbp
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_11
	jmp	.LBB1_22
.LBB1_12:
	movq	$0, 40(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_15
	jmp	.LBB1_22
.LBB1_16:
	movabsq	$PyExc_TypeError, %rdi
	movabsq	$".const.can't unbox array from PyObject into native value.  The object maybe of a different type", %rsi
	movabsq	$PyErr_SetString, %rax
	callq	*%rax
	testb	%bl, %bl
	je	.LBB1_18
	jmp	.LBB1_22
.LBB1_19:
	movq	$0, 16(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_25
	jmp	.LBB1_21
.LBB1_26:
	movq	$0, 8(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_29
	jmp	.LBB1_21
.LBB1_30:
	movabsq	$PyExc_TypeError, %rdi
	movabsq	$".const.can't unbox array from PyObject into native value.  The object maybe of a different type", %rsi
	movabsq	$PyErr_SetString, %rax
	callq	*%rax
	testb	%bl, %bl
	je	.LBB1_32
	jmp	.LBB1_21
.LBB1_33:
	xorl	%ebx, %ebx
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_36
	jmp	.LBB1_20
.LBB1_37:
	xorl	%r15d, %r15d
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_40
	jmp	.LBB1_20
.LBB1_41:
	xorl	%r12d, %r12d
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_44
.LBB1_20:
	movq	24(%rsp), %rdi
	movabsq	$NRT_decref, %rax
	callq	*%rax
	movq	32(%rsp), %r15
.LBB1_21:
	movq	56(%rsp), %rdi
	movabsq	$NRT_decref, %rax
	callq	*%rax
.LBB1_22:
	movabsq	$NRT_decref, %rax
	movq	%r15, %rdi
	callq	*%rax
	xorl	%ebx, %ebx
	jmp	.LBB1_46
.Lfunc_end1:
	.size	_ZN7cpython3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb, .Lfunc_end1-_ZN7cpython3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb
	.cfi_endproc

	.globl	cfunc._ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb
	.p2align	4
	.type	cfunc._ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb,@function
cfunc._ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb:
	subq	$264, %rsp
	vmovaps	384(%rsp), %xmm1
	vmovups	472(%rsp), %xmm2
	vmovups	296(%rsp), %xmm0
	movzbl	496(%rsp), %esi
	movq	488(%rsp), %rdx
	movq	344(%rsp), %rax
	movq	432(%rsp), %rcx
	movq	$0, 256(%rsp)
	leaq	256(%rsp), %rdi
	andl	$1, %esi
	movq	%rdx, 232(%rsp)
	movl	%esi, 240(%rsp)
	vmovups	%xmm2, 216(%rsp)
	movq	%rcx, 176(%rsp)
	vmovups	%xmm1, 128(%rsp)
	movq	%rax, 88(%rsp)
	movabsq	$_ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb, %rax
	vmovups	%xmm0, 40(%rsp)
	movq	%r8, (%rsp)
	callq	*%rax
	movq	256(%rsp), %rax
	addq	$264, %rsp
	retq
.Lfunc_end2:
	.size	cfunc._ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb, .Lfunc_end2-cfunc._ZN3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb

	.weak	NRT_decref
	.p2align	4
	.type	NRT_decref,@function
NRT_decref:
	.cfi_startproc
	testq	%rdi, %rdi
	je	.LBB3_2
	#MEMBARRIER
	lock		decq	(%rdi)
	je	.LBB3_3
.LBB3_2:
	retq
.LBB3_3:
	movabsq	$NRT_MemInfo_call_dtor, %rax
	#MEMBARRIER
	jmpq	*%rax
.Lfunc_end3:
	.size	NRT_decref, .Lfunc_end3-NRT_decref
	.cfi_endproc

	.type	".const.make_dense.<locals>.dense",@object
	.section	.lrodata,"al",@progbits
	.p2align	4, 0x0
".const.make_dense.<locals>.dense":
	.asciz	"make_dense.<locals>.dense"
	.size	".const.make_dense.<locals>.dense", 26

	.type	_ZN08NumbaEnv3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb,@object
	.comm	_ZN08NumbaEnv3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb,8,8
	.type	".const.missing Environment: _ZN08NumbaEnv3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb",@object
	.p2align	4, 0x0
".const.missing Environment: _ZN08NumbaEnv3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb":
	.asciz	"missing Environment: _ZN08NumbaEnv3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb"
	.size	".const.missing Environment: _ZN08NumbaEnv3mlp10make_dense12_3clocals_3e5denseB2v1B76c8tJTIeFIjxB2IKSgI4CrvQCk0Z4yRYcWsCAgXrKFt1X1eogKfVaTWDAFsEMQEpRYBFNAA_3d_3dE5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExx5ArrayIfLi2E1C7mutable7alignedExxxb", 256

	.type	".const.can't unbox array from PyObject into native value.  The object maybe of a different type",@object
	.p2align	4, 0x0
".const.can't unbox array from PyObject into native value.  The object maybe of a different type":
	.asciz	"can't unbox array from PyObject into native value.  The object maybe of a different type"
	.size	".const.can't unbox array from PyObject into native value.  The object maybe of a different type", 89

	.section	".note.GNU-stack","",@progbits
