"""Escapes from the sandbox and abuses of it, by name. `ESCAPES` print ESCAPED where they succeed; `ABUSES` want more of
something than they may have. `{secret_file}`, `{port}`, `{pid}` and `{socket}` are things of the host.
"""

# ruff: noqa: E501 (each program stands on one line)

_TRY = (
    "def attempt(f):\n    try: r = f()\n    except BaseException as e: print('held', type(e).__name__); return\n"
    "    print('ESCAPED', r)\n"
)
_CALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def _attempt(expression: str, setup: str = "") -> str:
    return f"{_TRY}{setup}\nattempt(lambda: {expression})\n"


def _syscall(call: str) -> str:
    """An escape by a bare system call: succeeds where it does not return -1."""
    return f"{_CALL}print('held' if libc.{call} == -1 else 'ESCAPED')\n"


ESCAPES = {
    "read-host-secret-file": _attempt("open('{secret_file}').read()"),
    "read-through-symlink": _attempt("open('link').read()", "import os; os.symlink('{secret_file}', 'link')"),
    "read-through-dot-dot": _attempt("open('../../../../../..{secret_file}').read()"),
    "read-through-proc-root": _attempt("open('/proc/1/root{secret_file}').read()"),
    "read-through-proc-cwd": _attempt("open('/proc/self/cwd/../..{secret_file}').read()"),
    "read-etc-passwd": _attempt("open('/etc/passwd').read()"),
    "read-etc-shadow": _attempt("open('/etc/shadow').read()"),
    "read-root-home": _attempt("__import__('os').listdir('/root')"),
    "read-home": _attempt("__import__('os').listdir('/home')"),
    "read-var": _attempt("__import__('os').listdir('/var')"),
    "read-tmp-of-host": _attempt("__import__('os').listdir('/tmp')"),
    "read-run": _attempt("__import__('os').listdir('/run')"),
    "read-sys": _attempt("__import__('os').listdir('/sys')"),
    "read-docker-socket": _attempt("open('/var/run/docker.sock')"),
    "read-kernel-memory": _attempt("open('/dev/mem','rb').read(1)"),
    "read-kernel-log": _attempt("open('/dev/kmsg','rb').read(1)"),
    "read-disk": _attempt(
        "open([p for p in ('/dev/vda','/dev/sda','/dev/nvme0n1') if __import__('os').path.exists(p)][0],'rb').read(1)"
    ),
    "environment-secret": "import os\nprint('ESCAPED' if any('planted' in v for v in os.environ.values()) else 'held')",
    "environment-of-init": _attempt("[1/('planted' in open('/proc/1/environ').read())]"),
    "environment-of-all": "import os\nfound = False\nfor p in os.listdir('/proc'):\n    try: found |= 'planted' in open(f'/proc/{p}/environ').read()\n    except OSError: pass\nprint('ESCAPED' if found else 'held')",
    "command-lines-of-host": "import os\nprint('ESCAPED' if len([p for p in os.listdir('/proc') if p.isdigit()]) > 4 else 'held')",
    "kill-host-process": _attempt("__import__('os').kill({pid}, 0)"),
    "kill-everything": "import os, signal\ntry: os.kill(-1, signal.SIGTERM)\nexcept OSError: pass\nprint('held')",
    "ptrace-parent": _syscall("ptrace(16, 1, 0, 0)"),
    "read-memory-of-init": _attempt("open('/proc/1/mem','rb').read(1)"),
    "process-vm-readv": _syscall("process_vm_readv(1, 0, 0, 0, 0, 0)"),
    "network-tcp-out": _attempt("__import__('socket').create_connection(('1.1.1.1', 80), 2)"),
    "network-host-loopback": _attempt("__import__('socket').create_connection(('127.0.0.1', {port}), 2)"),
    "network-host-loopback-v6": _attempt("__import__('socket').create_connection(('::1', {port}), 2)"),
    "network-udp-out": _attempt(
        "s.sendto(b'x', ('8.8.8.8', 53))", "import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    ),
    "network-dns": _attempt("__import__('socket').getaddrinfo('example.org', 80)"),
    "network-metadata-service": _attempt(
        "__import__('urllib.request').request.urlopen('http://169.254.169.254/', timeout=2)"
    ),
    "network-raw-socket": _attempt("__import__('socket').socket(2, 3, 1)"),
    "network-packet-socket": _attempt("__import__('socket').socket(17, 3)"),
    "unix-socket-of-host": _attempt("s.connect('{socket}')", "import socket; s=socket.socket(socket.AF_UNIX)"),
    "abstract-socket-of-host": _attempt(
        "s.connect(chr(0)+'aios-sandbox-test')", "import socket; s=socket.socket(socket.AF_UNIX)"
    ),
    "new-user-namespace": _syscall("unshare(0x10000000)"),
    "new-mount-namespace": _syscall("unshare(0x00020000)"),
    "enter-namespace": _attempt("[1/(libc.setns(os.open('/proc/1/ns/mnt', 0), 0) + 1)]", _CALL),
    "mount-tmpfs": _syscall("mount(b'none', b'/work', b'tmpfs', 0, 0)"),
    "mount-proc": _syscall("mount(b'proc', b'/proc', b'proc', 0, 0)"),
    "remount-root-writable": _syscall("mount(b'none', b'/', 0, 32, 0)"),
    "unmount-work": _syscall("umount2(b'/work', 2)"),
    "chroot": _attempt("__import__('os').chroot('/work')"),
    "pivot-root": _syscall("syscall(155, b'/work', b'/work')"),
    "become-root": _attempt("__import__('os').setuid(0)"),
    "become-root-group": _attempt("__import__('os').setgid(0)"),
    "raise-limits": _attempt("r.setrlimit(r.RLIMIT_NPROC, (4096, 4096))", "import resource as r"),
    "raise-memory-limit": _attempt(
        "r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))", "import resource as r"
    ),
    "write-usr": _attempt("open('/usr/escaped','w')"),
    "write-root-folder": _attempt("open('/escaped','w')"),
    "write-python-library": _attempt("open(__import__('os').__file__,'a')"),
    "write-dev": _attempt("open('/dev/escaped','w')"),
    "write-proc-sys": _attempt("open('/proc/sys/kernel/hostname','w').write('x')"),
    "write-core-pattern": _attempt("open('/proc/sys/kernel/core_pattern','w').write('|/x')"),
    "write-sysrq": _attempt("open('/proc/sysrq-trigger','w').write('h')"),
    "make-device": _attempt("__import__('os').mknod('disk', 0o60666, 0x0800)"),
    "make-setuid-file": "import os, shutil\nshutil.copy('/usr/bin/env', 'e')\nos.chmod('e', 0o4755)\nprint('ESCAPED' if os.popen('./e sh -c \"id -u\"').read().strip() == '0' else 'held')",
    "use-su": "import os\nprint('ESCAPED' if os.popen('/usr/bin/su -c \"id -u\" 2>/dev/null < /dev/null').read().strip() == '0' else 'held')",
    "set-hostname": _attempt("__import__('socket').sethostname('escaped')"),
    "set-clock": _attempt("__import__('time').clock_settime(0, 0)"),
    "load-bpf": _syscall("syscall(321, 0, 0, 0)"),
    "kernel-keyring": _syscall("syscall(248, b'user', b'k', b'v', 1, -3)"),
    "io-uring": _syscall("syscall(425, 1, 0)"),
    "userfaultfd": _syscall("syscall(323, 0)"),
    "perf-events": _syscall("syscall(298, 0, 0, -1, -1, 0)"),
    "load-module": _syscall("syscall(175, 0, 0, 0)"),
    "reboot": _syscall("reboot(0x89abcdef)"),
    "open-by-handle": _syscall("syscall(304, -100, 0, 0)"),
    "inherited-descriptors": "import os\nprint('ESCAPED' if any(int(f) > 3 for f in os.listdir('/proc/self/fd')) else 'held')",
    "terminal-injection": _attempt("__import__('fcntl').ioctl(0, 0x5412, b'x')"),
    "leave-child-behind": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(3600)\nprint('held')",
}

ABUSES = {
    "fork-bomb": "import os\nfor _ in range(5000): os.fork()",
    "thread-bomb": "import threading, time\nfor _ in range(5000): threading.Thread(target=time.sleep, args=(60,)).start()",
    "memory": "x = bytearray(4 << 30)",
    "memory-slowly": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory-by-mmap": "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(64)]",
    "endless-output": "while True: print('x' * 4096)",
    "endless-errors": "import sys\nwhile True: sys.stderr.write('x' * 4096)",
    "endless-loop": "while True: pass",
    "endless-sleep": "import time\nwhile True: time.sleep(60)",
    "ignores-signals": "import signal\nfor n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
    "huge-integer": "print(len(str(9 ** 9 ** 9)))",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "disk-one-file": "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()",
    "disk-many-files": "n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'wb').write(bytes(1 << 20))",
    "shared-memory": "n = 0\nwhile True:\n    n += 1\n    open(f'/dev/shm/f{n}', 'wb').write(bytes(1 << 20))",
    "descriptors": "x = [open('/dev/null') for _ in range(5000)]",
    "closes-output-and-stays": "import os, time\nos.close(1); os.close(2)\ntime.sleep(3600)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "exits-badly": "import os\nos._exit(77)",
    "syntax-error": "def",
}
