"""A daemoniser: it goes into a session of its own by a double fork, and its last process ignores SIGTERM."""
import http.server
import os
import signal
import sys
import time

if os.fork():
    if "stay" in sys.argv:
        time.sleep(1000)
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(os.environ["PORT"]), bind="127.0.0.1")
