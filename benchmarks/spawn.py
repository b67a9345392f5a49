"""Run one command and write down what it took, as JSON in a file.

    python -I -S spawn.py REPORT OUTPUT COMMAND...

A process of its own, and a small one: what a child's peak memory starts from is that of the
process it was made by. CPU is user and system time of the command and of all that it waited for;
peak memory is that of the largest single process among them.
"""

import json
import os
import sys
import time


def main() -> int:
    """Run it; the exit code is the command's."""
    report, output, *command = sys.argv[1:]
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    began = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=files)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - began
    with open(report, "w") as file:
        json.dump(
            {
                "wall_s": wall,
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "peak_mib": usage.ru_maxrss / 1024,
                "code": os.waitstatus_to_exitcode(status),
            },
            file,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
