"""Eight CPU devices for every test, set before JAX is loaded.

Programs compiled once are kept for the session, also for the processes that
tests start: many of them compile the same step.
"""

import atexit
import os
import shutil
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
# Most of the time goes into compiling programs that run a few times.
# JAX_DISABLE_MOST_OPTIMIZATIONS=false compiles them as users do.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', 'true')
if 'PYTEST_XDIST_WORKER' not in os.environ:  # a worker has all this already
  flag = '--xla_force_host_platform_device_count=8'
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()
  cache = tempfile.mkdtemp(prefix='jaxlab-compiled-')
  atexit.register(shutil.rmtree, cache, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
