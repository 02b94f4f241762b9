// SPDX-License-Identifier: MIT

// The Go process whose calls are timed. Answers `time FUNCTION BATCHES BATCH_NS` with the median,
// least and greatest nanoseconds per call, like target.c; FUNCTION as below, with `:grown` on a
// goroutine whose stack has grown so far that programs run on it.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

var never bool

// Looks at its stack, because it may call.
//
//go:noinline
func checked(n int) int {
	if never {
		return checked(n-1) + checked(n-2)
	}
	return n + 1
}

// Calls nothing: there is no stack check.
//
//go:noinline
func leaf(n int) int { return n*3 + 1 }

var functions = map[string]func(int){
	"main.checked": func(calls int) {
		for i := 0; i < calls; i++ {
			checked(i)
		}
	},
	"main.leaf": func(calls int) {
		for i := 0; i < calls; i++ {
			leaf(i)
		}
	},
}

func threadNs() float64 {
	const threadCpuTime = 3
	var ts syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, threadCpuTime, uintptr(unsafe.Pointer(&ts)), 0)
	return float64(ts.Nano())
}

func nsPerCall(loop func(int), calls int) float64 {
	start := threadNs()
	loop(calls)
	return (threadNs() - start) / float64(calls)
}

func timed(loop func(int), batches int, batchNs float64) string {
	const minCalls = 1000
	nsPerCall(loop, minCalls)
	calls := int(batchNs / nsPerCall(loop, minCalls))
	if calls < minCalls {
		calls = minCalls
	}
	results := make([]float64, batches)
	for i := range results {
		results[i] = nsPerCall(loop, calls)
	}
	sort.Float64s(results)
	return fmt.Sprintf("%.4f %.4f %.4f %d", results[batches/2], results[0], results[batches-1], calls)
}

//go:noinline
func grown(depth int, run func() string) string {
	var pad [1024]byte
	pad[depth%1024] = 1
	if depth == 0 {
		return run()
	}
	return grown(depth-1, run) + strings.Repeat(" ", int(pad[depth%1024])-1)
}

func answer(line string) string {
	words := strings.Fields(line)
	if len(words) != 4 || words[0] != "time" {
		return "error: unknown command"
	}
	isGrown := strings.HasSuffix(words[1], ":grown")
	name := strings.TrimSuffix(words[1], ":grown")
	batches, _ := strconv.Atoi(words[2])
	batchNs, _ := strconv.ParseFloat(words[3], 64)
	loop := functions[name]
	if loop == nil || batches < 1 || batches > 1000 {
		return "error: unknown function"
	}
	answers := make(chan string)
	go func() {
		runtime.LockOSThread()
		run := func() string { return timed(loop, batches, batchNs) }
		if isGrown {
			// Comes back from the depth: the stack stays as large until the next collection.
			grown(60, func() string { return "" })
			answers <- run()
			return
		}
		answers <- run()
	}()
	return <-answers
}

// What the goroutine of the caller runs on, and all others.
func pin(cpu int) {
	var mask [16]uint64
	mask[cpu/64] = 1 << (cpu % 64)
	syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask),
		uintptr(unsafe.Pointer(&mask)))
}

func main() {
	if len(os.Args) > 1 && os.Getenv("GO_BENCH_PINNED") == "" {
		// Threads that exist already would stay where they are: begin anew.
		cpu, _ := strconv.Atoi(os.Args[1])
		runtime.LockOSThread()
		pin(cpu)
		env := append(os.Environ(), "GO_BENCH_PINNED=1", "GOGC=off")
		syscall.Exec("/proc/self/exe", os.Args, env)
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(answer(lines.Text()))
	}
}
