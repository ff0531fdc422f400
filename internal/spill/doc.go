// Package spill sorts more than fits the memory. What does not fit lies in temporary
// files that nobody else can open or read: they lose their names as soon as they are
// made, and are encrypted under a key that only this process has, so that neither a
// crash nor a swapped-out page of the disk's cache leaves anything to read.
package spill
