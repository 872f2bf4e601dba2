// Package lender owns the client's end of files that are lent to an engine on the
// same machine, see package lend: the large files of the directories that a build
// reads. The engine could ask for each of them anyhow.
package lender
