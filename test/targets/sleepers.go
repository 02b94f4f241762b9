// SPDX-License-Identifier: MIT

// As sleepers.c, in Go: a thread per blocking system call, made raw, each of which must neither fail
// with EINTR nor come back early or late. Prints `NAME ok MS` or `NAME BROKEN RESULT ERRNO MS`;
// `asleep` when all wait, `all awake` when all came back.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const waitMS = 2500

var wait = syscall.Timespec{Sec: waitMS / 1000, Nsec: waitMS % 1000 * 1000000}

// A raw call: result and errno, as the kernel gives them.
func call(nr uintptr, args ...uintptr) (int, syscall.Errno) {
	var a [6]uintptr
	copy(a[:], args)
	result, _, errno := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return int(result), errno
}

func at(p *syscall.Timespec) uintptr { return uintptr(unsafe.Pointer(p)) }

// CLOCK_MONOTONIC plus the wait.
func deadline() *syscall.Timespec {
	var now syscall.Timespec
	call(syscall.SYS_CLOCK_GETTIME, 1, at(&now))
	nsec := now.Nsec + wait.Nsec
	return &syscall.Timespec{Sec: now.Sec + wait.Sec + nsec/1e9, Nsec: nsec % 1e9}
}

func epoll() uintptr {
	fd, _ := call(syscall.SYS_EPOLL_CREATE1, 0)
	return uintptr(fd)
}

type sleeper struct {
	name string
	call func() (int, syscall.Errno)
	want int
	err  syscall.Errno
}

var (
	event    [64]byte
	octet    [16]byte
	word     uint32
	pipe     [2]int
	sockets  [2]int
	timed    [2]int
	listener int
	locks    [2]int
	queue    int
	address  syscall.Sockaddr
)

func ptr[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

func semtimedop() (int, syscall.Errno) {
	id, _ := call(syscall.SYS_SEMGET, 0, 1, 0600)
	take := [3]int16{0, -1, 0}
	result, errno := call(syscall.SYS_SEMTIMEDOP, uintptr(id), ptr(&take), 1, at(&wait))
	call(syscall.SYS_SEMCTL, uintptr(id), 0, 0 /* IPC_RMID */)
	return result, errno
}

func ioGetevents() (int, syscall.Errno) {
	var context uintptr
	if _, errno := call(syscall.SYS_IO_SETUP, 1, ptr(&context)); errno != 0 {
		return -2, errno
	}
	return call(syscall.SYS_IO_GETEVENTS, context, 1, 1, ptr(&event), at(&wait))
}

func futexWaitv() (int, syscall.Errno) {
	waiter := struct {
		value, address  uint64
		flags, reserved uint32
	}{0, uint64(ptr(&word)), 2 /* 32 bits */, 0}
	return call(449, ptr(&waiter), 1, 0, at(deadline()), 1)
}

func waitChild() (int, syscall.Errno) {
	child := exec.Command("sleep", fmt.Sprint(waitMS/1000.0))
	if err := child.Start(); err != nil {
		return -2, 0
	}
	result, errno := call(syscall.SYS_WAIT4, uintptr(child.Process.Pid), 0, 0, 0)
	if result == child.Process.Pid {
		return 0, 0
	}
	return result, errno
}

func accept() (int, syscall.Errno) {
	fd, errno := call(syscall.SYS_ACCEPT4, uintptr(listener), 0, 0, 0)
	if fd > 0 {
		return 0, errno
	}
	return fd, errno
}

var sleepers = []sleeper{
	{"poll", func() (int, syscall.Errno) { return call(syscall.SYS_POLL, 0, 0, waitMS) }, 0, 0},
	{"ppoll", func() (int, syscall.Errno) {
		left := wait
		return call(syscall.SYS_PPOLL, 0, 0, at(&left), 0, 8)
	}, 0, 0},
	{"pselect", func() (int, syscall.Errno) {
		left := wait
		return call(syscall.SYS_PSELECT6, 0, 0, 0, 0, at(&left), 0)
	}, 0, 0},
	{"nanosleep", func() (int, syscall.Errno) { return call(syscall.SYS_NANOSLEEP, at(&wait), 0) }, 0, 0},
	{"clock_nanosleep", func() (int, syscall.Errno) {
		return call(syscall.SYS_CLOCK_NANOSLEEP, 1, 1 /* TIMER_ABSTIME */, at(deadline()), 0)
	}, 0, 0},
	{"futex", func() (int, syscall.Errno) {
		return call(syscall.SYS_FUTEX, ptr(&word), 128 /* FUTEX_WAIT_PRIVATE */, 0, at(&wait))
	}, -1, syscall.ETIMEDOUT},
	{"futex_waitv", futexWaitv, -1, syscall.ETIMEDOUT},
	{"epoll_wait", func() (int, syscall.Errno) {
		return call(syscall.SYS_EPOLL_WAIT, epoll(), ptr(&event), 1, waitMS)
	}, 0, 0},
	{"epoll_pwait", func() (int, syscall.Errno) {
		return call(syscall.SYS_EPOLL_PWAIT, epoll(), ptr(&event), 1, waitMS, 0, 8)
	}, 0, 0},
	{"epoll_pwait2", func() (int, syscall.Errno) {
		return call(441, epoll(), ptr(&event), 1, at(&wait), 0, 8)
	}, 0, 0},
	{"sigtimedwait", func() (int, syscall.Errno) {
		usr2 := uint64(1) << (syscall.SIGUSR2 - 1)
		return call(syscall.SYS_RT_SIGTIMEDWAIT, ptr(&usr2), 0, at(&wait), 8)
	}, -1, syscall.EAGAIN},
	{"semtimedop", semtimedop, -1, syscall.EAGAIN},
	{"io_getevents", ioGetevents, 0, 0},
	{"recv_timeout", func() (int, syscall.Errno) {
		return call(syscall.SYS_RECVFROM, uintptr(timed[0]), ptr(&octet), 1, 0, 0, 0)
	}, -1, syscall.EAGAIN},
	{"read", func() (int, syscall.Errno) {
		return call(syscall.SYS_READ, uintptr(pipe[0]), ptr(&octet), 1)
	}, 1, 0},
	{"recv", func() (int, syscall.Errno) {
		return call(syscall.SYS_RECVFROM, uintptr(sockets[0]), ptr(&octet), 1, 0, 0, 0)
	}, 1, 0},
	{"msgrcv", func() (int, syscall.Errno) {
		return call(syscall.SYS_MSGRCV, uintptr(queue), ptr(&event), 8, 0, 0)
	}, 1, 0},
	{"accept", accept, 0, 0},
	{"flock", func() (int, syscall.Errno) {
		return call(syscall.SYS_FLOCK, uintptr(locks[0]), syscall.LOCK_EX)
	}, 0, 0},
	{"wait4", waitChild, 0, 0},
}

func must(err error) {
	if err != nil {
		fmt.Println("WRONG", err)
		os.Exit(2)
	}
}

func openEnds() {
	must(syscall.Pipe(pipe[:]))
	var err error
	sockets, err = syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(err)
	timed, err = syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(err)
	patience := syscall.NsecToTimeval(waitMS * 1e6)
	must(syscall.SetsockoptTimeval(timed[0], syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience))
	listener, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(err)
	must(syscall.Bind(listener, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(syscall.Listen(listener, 1))
	address, err = syscall.Getsockname(listener)
	must(err)
	for i := range locks {
		locks[i], err = syscall.Open("/proc/self/exe", syscall.O_RDONLY, 0)
		must(err)
	}
	must(syscall.Flock(locks[1], syscall.LOCK_EX))
	queue, _ = call(syscall.SYS_MSGGET, 0, 0600)
}

// Ends the calls that have no time-out of their own.
func wake() {
	syscall.Write(pipe[1], octet[:1])
	syscall.Write(sockets[1], octet[:1])
	message := struct {
		kind int64
		text [8]byte
	}{kind: 1}
	call(syscall.SYS_MSGSND, uintptr(queue), ptr(&message), 1, 0)
	syscall.Flock(locks[1], syscall.LOCK_UN)
	client, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(err)
	must(syscall.Connect(client, address))
}

//go:noinline
func work(n int) int { return n + 1 }

func main() {
	openEnds()
	var begun, all sync.WaitGroup
	for _, one := range sleepers {
		begun.Add(1)
		all.Add(1)
		go func(one sleeper) {
			runtime.LockOSThread()
			started := time.Now()
			begun.Done()
			result, errno := one.call()
			took := time.Since(started).Milliseconds()
			if result == one.want && (result != -1 || errno == one.err) {
				fmt.Println(one.name, "ok", took)
			} else {
				fmt.Println(one.name, "BROKEN", result, errno, took)
			}
			all.Done()
		}(one)
	}
	// From when the last began: a busy machine starts threads late.
	begun.Wait()
	started := time.Now()
	time.Sleep(200 * time.Millisecond)
	fmt.Println("asleep")
	for n := 0; time.Since(started) < waitMS*time.Millisecond; {
		n = work(n)
		time.Sleep(time.Millisecond)
	}
	wake()
	all.Wait()
	call(syscall.SYS_MSGCTL, uintptr(queue), 0 /* IPC_RMID */, 0)
	fmt.Println("all awake")
	time.Sleep(time.Hour)
}
