"""What must be known of threads before one is used: whether they are greenlets, and whether the system allows one more."""

import _thread
import threading
import types


def are_greenlets() -> bool:
    """Tell whether gevent or eventlet has patched threads. Then whatever waits outside of Python stops the whole process."""
    return not isinstance(_thread.start_new_thread, types.BuiltinFunctionType)


def start(thread: threading.Thread) -> bool:
    """Start a thread. Return False where the system allows none, or the process is ending."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def is_one_left() -> bool:
    """Tell whether the system allows one more thread, by starting one. A library may abort the app where it does not."""
    thread = threading.Thread(target=lambda: None, name="datafile probe", daemon=True)
    if not start(thread):
        return False
    thread.join()
    return True


def is_process_ending() -> bool:
    """Tell whether the interpreter ends. From then on Python 3.12 and newer start no thread."""
    return not threading.main_thread().is_alive()
