"""What the program runs on: HTTP, rate limits, time, files, threads, Kubernetes."""
