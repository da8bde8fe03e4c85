"""Runs a command on a terminal of its own and talks to it:  terminal.py STEPS COMMAND [ARGS]

STEPS is a file of lines: `send TEXT` types (\\r, \\t, \\x03 as in Python), `expect TEXT` waits for it in what was
printed since the last step, `pause SECONDS` waits.  Prints all that came; exits as the command did, with 99 when
something did not come in time and 128 + n after signal n.
"""
import codecs
import os
import pty
import select
import sys
import termios
import time

TIMEOUT = 30.0


def main():
    steps = open(sys.argv[1], encoding="utf-8").read().splitlines()
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(sys.argv[2], sys.argv[2:])
    seen, mark = b"", 0

    def take(seconds):
        nonlocal seen
        if not select.select([terminal], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            return False
        seen += piece
        return bool(piece)

    def leave(status):
        sys.stdout.buffer.write(seen)
        sys.stdout.flush()
        os._exit(status)

    for step in steps:
        what, _, text = step.partition(" ")
        text = codecs.decode(text.encode("utf-8"), "unicode_escape").encode("latin-1")
        if what == "send":
            # the editor prints its prompt shortly before it takes the terminal over; Ctrl-D before that is lost
            end = time.monotonic() + 1
            while termios.tcgetattr(terminal)[3] & termios.ICANON and time.monotonic() < end:
                time.sleep(0.01)
            os.write(terminal, text)
        elif what == "pause":
            end = time.monotonic() + float(text)
            while time.monotonic() < end and take(end - time.monotonic()):
                pass
        elif what == "expect":
            end = time.monotonic() + TIMEOUT
            while text not in seen[mark:]:
                if time.monotonic() > end or not take(0.2) and text not in seen[mark:]:
                    os.kill(child, 9)
                    seen += b"\n[did not come: " + text + b"]\n"
                    leave(99)
            mark = seen.index(text, mark) + len(text)
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end and take(0.2):
        pass
    done, status = os.waitpid(child, os.WNOHANG)
    for _ in range(100):
        if done:
            break
        time.sleep(0.05)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, 9)
        seen += b"\n[did not end]\n"
        leave(99)
    leave(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


main()
