package main

import (
	"math/rand/v2"
)

// Each message is a small JSON object as chats send them:
//
//	{"m":"0000002a","user":"maria","text":"see you at the station ..."}
//
// Its first field is the message's number, so the load can tell which one it got
// without decoding JSON.
const (
	messageHead = `{"m":"`
	numberAt    = len(messageHead)
	numberSize  = 8
	messageMin  = 64
	probeBit    = 1 << 31 // numbers with it are probes, sent until all members are in
)

// How many different texts there are of one size. Two messages that are under way at the
// same time have different ones.
const textCount = 512

var (
	names = []string{"maria", "jonas", "aiko", "pierre", "olga", "sam", "fatima", "chen", "lucia", "tom"}
	words = []string{"the", "a", "we", "you", "see", "meet", "at", "station", "tomorrow", "today", "build", "is",
		"green", "red", "again", "deploy", "after", "lunch", "thanks", "great", "could", "someone", "look", "into",
		"that", "ticket", "please", "server", "restart", "done", "really", "why", "not", "because", "customer",
		"asked", "for", "it", "nobody", "knows", "coffee", "anyone", "in", "five", "minutes", "ok", "haha", "sure"}
)

// texts returns messages of exactly size bytes, number 0. They are the same in every
// process.
func texts(size int) [][]byte {
	size = max(size, messageMin)
	random := rand.New(rand.NewPCG(1, uint64(size)))
	all := make([][]byte, textCount)
	for i := range all {
		b := append([]byte(messageHead), `00000000","user":"`...)
		b = append(b, names[random.IntN(len(names))]...)
		b = append(b, `","text":"`...)
		for len(b) < size {
			b = append(b, words[random.IntN(len(words))]...)
			b = append(b, ' ')
		}
		b = append(b[:size-2], `"}`...)
		all[i] = b
	}
	return all
}

const hexDigits = "0123456789abcdef"

// putNumber writes n at the place of a message's number.
func putNumber(message []byte, n uint32) {
	for i := numberSize - 1; i >= 0; i-- {
		message[numberAt+i] = hexDigits[n&15]
		n >>= 4
	}
}

// number reads a message's number; ok is false where this is not a message of ours.
func number(message []byte) (n uint32, ok bool) {
	if len(message) < messageMin || string(message[:numberAt]) != messageHead {
		return 0, false
	}
	for _, c := range message[numberAt : numberAt+numberSize] {
		d := hexValue[c]
		if d > 15 {
			return 0, false
		}
		n = n<<4 | uint32(d)
	}
	return n, true
}

var hexValue = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i := range hexDigits {
		t[hexDigits[i]] = byte(i)
	}
	return
}()
