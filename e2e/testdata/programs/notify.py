"""A server that tells its state by sd_notify(3), as its arguments say: a text, or a number of seconds to wait."""
import http.server
import os
import socket
import sys
import threading
import time


def notify(text):
    address = os.environ["NOTIFY_SOCKET"]
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), address)


def speak():
    for argument in sys.argv[1:]:
        if argument[0].isdigit():
            time.sleep(float(argument))
        else:
            notify(argument)


threading.Thread(target=speak, daemon=True).start()
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(os.environ["PORT"]), bind="127.0.0.1")
