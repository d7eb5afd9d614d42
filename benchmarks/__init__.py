"""What sweeper costs, and against what: one command each, see README.md. No part of the tests' verdict."""
