// Command bolt writes a file with the library that Weave Net's router keeps its data with: bolt FILE.
//
// On stdin, a line each, in their order, each a transaction of its own:
//
//	bucket NAME              makes a bucket
//	put NAME KEY LENGTH BYTE puts so many bytes of this value, hexadecimal, beneath a key; KEY may be a range, FROM-TO, of numbers
//	delete NAME KEY          removes it
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/boltdb/bolt"
)

func main() {
	db, err := bolt.Open(os.Args[1], 0600, nil)
	check(err)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Fields(lines.Text())
		check(db.Update(func(tx *bolt.Tx) error { return do(tx, words) }))
	}
	check(db.Close())
}

func do(tx *bolt.Tx, words []string) error {
	bucket := tx.Bucket([]byte(words[1]))
	switch words[0] {
	case "bucket":
		_, err := tx.CreateBucket([]byte(words[1]))
		return err
	case "delete":
		return bucket.Delete([]byte(words[2]))
	case "put":
		length, err := strconv.Atoi(words[3])
		check(err)
		value, err := strconv.ParseUint(words[4], 16, 8)
		check(err)
		for _, key := range keys(words[2]) {
			if err := bucket.Put([]byte(key), bytes.Repeat([]byte{byte(value)}, length)); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("no such order: %s", words[0])
}

func keys(text string) []string {
	ends := strings.Split(text, "-")
	if len(ends) != 2 {
		return []string{text}
	}
	from, err := strconv.Atoi(ends[0])
	check(err)
	to, err := strconv.Atoi(ends[1])
	check(err)
	var all []string
	for number := from; number < to; number++ {
		all = append(all, fmt.Sprintf("%05d", number))
	}
	return all
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
