// Empty: lets the compiler accept the bodyless function of main.go.
