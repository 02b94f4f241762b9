// SPDX-License-Identifier: MIT

// A Go program that does what makes probing Go hard, checks each of its own results, and counts its
// calls: goroutines whose stacks grow and are copied again and again while the collector runs,
// panics that are recovered through several frames, defers, channels, a socket pair in the poller,
// leaf functions that check no stack, preemption by signals.
//
// Usage: goroutines [N]. Commands on stdin: `start` lets N goroutines work, `stop` waits until every
// one of them is idle, `counts` prints `counts NAME=N ...`, `hot` lets N goroutines call one function
// for ever, `quit` ends. While it works it prints `round N`. A wrong result prints WRONG and ends
// with 1.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Calls made of each function, counted where they are made.
var calls struct {
	grow, leaf, sum, manyArgs, deferred, recovered, thrower, method, big, pair, closure, valueOf atomic.Int64
}

type item struct {
	value int
	next  *item
}

//go:noinline
func grow(depth int, seed int) int {
	// Enough locals that a few levels need a larger stack.
	var pad [24]int
	for i := range pad {
		pad[i] = seed + i
	}
	if depth == 0 {
		return pad[seed&7] - seed
	}
	calls.grow.Add(1)
	return grow(depth-1, seed) + pad[(seed+depth)%24] - seed - (seed+depth)%24
}

// No call and no frame: the compiler leaves the stack check out.
//
//go:noinline
func leaf(a, b int) int { return a*3 + b }

// Its first instruction reads through a pointer, which may be nil.
//
//go:noinline
func valueOf(it *item) int { return it.value }

//go:noinline
func sum(values []int) (total int) {
	for _, v := range values {
		total += v
	}
	return total
}

//go:noinline
func manyArgs(a, b, c, d, e, f, g, h, i, j, k, l int, s string, x, y float64) (int, string, float64) {
	return a + 2*b + 3*c + 4*d + 5*e + 6*f + 7*g + 8*h + 9*i + 10*j + 11*k + 12*l, s, x * y
}

//go:noinline
func deferred(n int) (result int) {
	defer func() { result += n }()
	for i := 0; i < 3; i++ {
		defer func(i int) { result += i }(i)
	}
	return n
}

var errThrown = errors.New("thrown")

//go:noinline
func thrower(depth int) int {
	if depth == 0 {
		panic(errThrown)
	}
	calls.thrower.Add(1)
	return thrower(depth-1) + 1
}

//go:noinline
func recovered(depth int) (result int) {
	defer func() {
		if r := recover(); r == errThrown {
			result = depth
		}
	}()
	calls.thrower.Add(1)
	return thrower(depth)
}

// A nil dereference that the program recovers from, in the first instruction of a leaf.
//
//go:noinline
func nilRecovered() (ok bool) {
	defer func() { ok = recover() != nil }()
	calls.valueOf.Add(1)
	return valueOf(nil) == 0
}

type thing struct{ n int }

//go:noinline
func (t *thing) Method(d int) int { return t.n + d + grow(1, d) }

//go:noinline
func big(n int) int {
	var block [20000]byte
	for i := range block {
		block[i] = byte(n)
	}
	return int(block[n%20000]) + int(block[19999])
}

//go:noinline
func pair(a, b int) (int, int) {
	if a > b {
		return leaf(b, a), a
	}
	return leaf(a, b), b
}

//go:noinline
func closure(n int) func(int) int {
	return func(m int) int { return n*m + 1 }
}

// Never yields: only a signal gets it off its thread.
//
//go:noinline
func spin(n int) (x int) {
	for i := 0; i < n; i++ {
		x += i ^ n
	}
	return x
}

// Two slow instructions in a row and no call: whoever is interrupted in it waits for the first of
// them to end, and goes on at the second.
//
//go:noinline
func root(x float64) float64 { return math.Sqrt(math.Sqrt(x)) }

// Off its thread only by preemption, and most of the time inside of root: with many of these, some
// are always waiting in the middle of it.
func hot(id int) {
	for n := 0; ; n++ {
		x := float64(id + 1)
		for i := 0; i < 100_000; i++ {
			x = root(x) * float64(16)
		}
		check(x > 40.3 && x < 40.4, "hot root")
		if id == 0 {
			fmt.Println("round", rounds.Add(1))
		}
	}
}

func check(ok bool, what string) {
	if !ok {
		fmt.Println("WRONG", what)
		os.Exit(1)
	}
}

func work(seed int) {
	depth := 4 + seed%60
	calls.grow.Add(1)
	check(grow(depth, seed) == grow0(depth, seed), "grow")
	calls.leaf.Add(1)
	check(leaf(seed, 7) == seed*3+7, "leaf")
	calls.sum.Add(1)
	check(sum([]int{seed, seed, 1}) == 2*seed+1, "sum")
	calls.manyArgs.Add(1)
	n, s, f := manyArgs(seed, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, "text", 2.5, 4)
	check(n == seed+2*1+3*2+4*3+5*4+6*5+7*6+8*7+9*8+10*9+11*10+12*11 && s == "text" && f == 10,
		"manyArgs")
	calls.deferred.Add(1)
	check(deferred(seed) == 2*seed+3, "deferred")
	calls.recovered.Add(1)
	check(recovered(5) == 5, "recovered")
	check(nilRecovered(), "nil dereference")
	calls.method.Add(1)
	calls.grow.Add(1)
	t := &thing{n: seed}
	check(t.Method(3) == seed+3+grow0(1, 3), "Method")
	calls.pair.Add(1)
	calls.leaf.Add(1)
	a, b := pair(seed, 9)
	check(a == min(seed, 9)*3+max(seed, 9) && b == max(seed, 9), "pair")
	calls.closure.Add(1)
	check(closure(seed)(2) == seed*2+1, "closure")
	if seed%16 == 0 {
		calls.big.Add(1)
		check(big(seed) == 2*int(byte(seed)), "big")
	}
}

// What grow(depth, seed) returns, without recursion.
func grow0(depth, seed int) (total int) {
	total = seed & 7
	for d := 1; d <= depth; d++ {
		total += (seed+d)%24 - (seed+d)%24
	}
	return total
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func max(a, b int) int {
	if a > b {
		return a
	}
	return b
}

var (
	running atomic.Bool
	busy    sync.WaitGroup
	rounds  atomic.Int64
)

// A fresh goroutine per task, so that its stack starts small.
func worker(id int, tasks <-chan int, results chan<- int) {
	defer busy.Done()
	for seed := range tasks {
		work(seed + id%13)
		if id%64 == 0 {
			spin(20000)
		}
		runtime.Gosched()
		results <- seed
	}
}

func turn(goroutines int) {
	tasks := make(chan int)
	results := make(chan int, 64)
	busy.Add(goroutines)
	for id := 0; id < goroutines; id++ {
		go worker(id, tasks, results)
	}
	go func() {
		for seed := 0; seed < goroutines; seed++ {
			tasks <- seed
		}
		close(tasks)
	}()
	got := 0
	for seed := 0; seed < goroutines; seed++ {
		got += <-results
	}
	busy.Wait()
	check(got == goroutines*(goroutines-1)/2, "channel")
}

// Keeps the poller busy: both ends of a connection wait in it.
func poll() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err == nil, "listen")
	go func() {
		conn, err := listener.Accept()
		check(err == nil, "accept")
		buffer := make([]byte, 64)
		for {
			n, err := conn.Read(buffer)
			check(err == nil && n > 0, "echo: read")
			_, err = conn.Write(buffer[:n])
			check(err == nil, "echo: write")
		}
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	check(err == nil, "dial")
	buffer := make([]byte, 64)
	for i := 0; ; i++ {
		text := strconv.Itoa(i)
		_, err := conn.Write([]byte(text))
		check(err == nil, "poll: write")
		n, err := conn.Read(buffer)
		check(err == nil && string(buffer[:n]) == text, "poll: echo")
		time.Sleep(2 * time.Millisecond)
	}
}

var kept *item

func collect() {
	for {
		for i := 0; i < 1000; i++ {
			kept = &item{value: i, next: kept}
		}
		kept = nil
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
}

func printCounts() {
	fmt.Printf("counts grow=%d leaf=%d sum=%d manyArgs=%d deferred=%d recovered=%d thrower=%d "+
		"Method=%d big=%d pair=%d closure=%d valueOf=%d\n", calls.grow.Load(), calls.leaf.Load(),
		calls.sum.Load(), calls.manyArgs.Load(), calls.deferred.Load(), calls.recovered.Load(),
		calls.thrower.Load(), calls.method.Load(), calls.big.Load(), calls.pair.Load(),
		calls.closure.Load(), calls.valueOf.Load())
}

func main() {
	goroutines := 10000
	if len(os.Args) > 1 {
		goroutines, _ = strconv.Atoi(os.Args[1])
	}
	go poll()
	go collect()
	stopped := make(chan bool)
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "start":
			running.Store(true)
			go func() {
				for running.Load() {
					turn(goroutines)
					fmt.Println("round", rounds.Add(1))
				}
				stopped <- true
			}()
		case "stop":
			running.Store(false)
			<-stopped
			fmt.Println("stopped")
		case "hot":
			for id := 0; id < goroutines; id++ {
				go hot(id)
			}
		case "counts":
			printCounts()
		case "quit":
			return
		}
	}
}
