"""The user's code: found, read without importing it, digested, copied, and sent by value."""
