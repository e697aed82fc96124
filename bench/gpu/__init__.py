"""Flashlight on a GPU: does it run, is it right, and how fast is it; results survive whatever goes wrong.

    examples/gpu_check.sh --out out/gpu --seconds 540

`__main__` hands work to a worker process, item by item, and starts another one where it dies or hangs. Everything that
happens is a line of `events.jsonl`; `table.txt` and `results.json` are made from it again after every item.
"""
