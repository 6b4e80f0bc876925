# SPDX-License-Identifier: Apache-2.0
"""The function: handle(text) answers one request. What is imported and computed here is in the snapshot."""
import time

PRIMES = [n for n in range(2, 1000) if all(n % d for d in range(2, n))]
WARM = time.monotonic()
calls = 0


def handle(text):
    global calls
    calls += 1
    return f"{text}: prime number {len(text)} is {PRIMES[len(text) - 1]}, call {calls} of this clone\n"
