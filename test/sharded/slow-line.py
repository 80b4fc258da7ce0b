"""A line between two network namespaces that delays every packet and loses some.

usage: slow-line.py NAMESPACE DEVICE NAMESPACE DEVICE DELAY_MS LOSS

Makes a TUN device in each namespace, prints "ready", and carries packets between the two until it is ended.
"""
import ctypes
import fcntl
import os
import random
import select
import signal
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 1, 0x1000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def open_device(namespace, name):
    with open(f"/run/netns/{namespace}") as place:
        if libc.setns(place.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return handle


first, second = open_device(*sys.argv[1:3]), open_device(*sys.argv[3:5])
delay, loss = float(sys.argv[5]) / 1000, float(sys.argv[6])
other = {first: second, second: first}
chance = random.Random(1)
under_way = []  # (when it arrives, device, packet), in order
carried = lost = 0


def end(*_):
    print(f"carried {carried}, lost {lost}", flush=True)
    sys.exit()


signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True:
    wait = max(0, under_way[0][0] - time.monotonic()) if under_way else None
    for device in select.select([first, second], [], [], wait)[0]:
        packet = os.read(device, 65536)
        if chance.random() < loss:
            lost += 1
        else:
            under_way.append((time.monotonic() + delay, other[device], packet))
    while under_way and under_way[0][0] <= time.monotonic():
        _, device, packet = under_way.pop(0)
        try:
            os.write(device, packet)
            carried += 1
        except OSError:  # the device is down
            pass
