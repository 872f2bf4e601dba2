// Package remote tests how an engine is reached from elsewhere: TLS, ssh,
// docker's contexts, and sockets that systemd passes on. Clients are wherry and
// the real docker ones.
package remote
