# SPDX-License-Identifier: Apache-2.0
"""In the guest: one request per connection to vsock port 5000, read to its end, answered, closed."""
import socket

from function import handle

listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, 5000))
listener.listen(16)
while True:
    connection, _ = listener.accept()
    with connection:
        text = b""
        try:
            while data := connection.recv(65536):
                text += data
            connection.sendall(handle(text.decode()).encode())
        except OSError:  # reset: a restore ends the connections there are
            pass
