"""What every room may use: errors, values that rooms hand each other, text, files, addresses, secrets."""
