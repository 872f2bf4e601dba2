// Package api holds golden tests of the Engine API: requests with the answers
// that they must have, byte for byte. They run against the handlers over an
// empty engine of fakes, and with -engine against a living one.
//
//	go test ./test/api                                      the handlers
//	go test ./test/api -engine=unix:///run/wherry.sock      a living wherryd
//	go test ./test/api -engine=unix:///… -dockerd           a real dockerd: testdata/dockerd only
//	go test ./test/api -engine=unix:///… -dockerd -update   record what it answers
//
// testdata/dockerd was recorded from dockerd and holds what every version of
// it since 20.10 answers; testdata/wherry has the words of newer ones and what
// is wherryd's own. The engine must have no container, image or network "zzz".
package api
