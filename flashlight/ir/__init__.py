"""The languages of the compiler: index expressions, Program, Kernel; their text, checks, JSON and evaluation."""
