"""Program -> Program: the laws."""
