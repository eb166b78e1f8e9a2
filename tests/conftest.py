"""Eight CPU devices for every test, set before JAX is loaded.

Programs compiled once are kept for the session, also for the processes that
tests start: many of them compile the same step.
"""

import atexit
import gc
import os
import shutil
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
# Most of the time goes into compiling programs that run a few times.
# JAX_DISABLE_MOST_OPTIMIZATIONS=false compiles them as users do.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', 'true')
if 'PYTEST_XDIST_WORKER' not in os.environ:  # a worker has all this already
  flags = [os.environ.get('XLA_FLAGS', '')]
  if os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] == 'true':
    flags.append('--xla_cpu_use_fusion_emitters=false')  # half the time
    # One piece of a program at a time: all cores have tests to run.
    flags.append('--xla_cpu_parallel_codegen_split_count=1')  # a tenth
  flags.append('--xla_force_host_platform_device_count=8')
  os.environ['XLA_FLAGS'] = ' '.join(flags).strip()
  cache = tempfile.mkdtemp(prefix='jaxlab-compiled-')
  atexit.register(shutil.rmtree, cache, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

# Tracing makes many small objects: collecting them less often saves a tenth.
gc.set_threshold(100_000, 50, 100)

# Files that take minutes come first, or a worker would end alone with one.
_LONG = ('test_conformance.py', 'test_mvs_gnn_task.py', 'test_aloe.py')


def pytest_configure(config):
  if hasattr(config.option, 'loadscopereorder'):  # pytest-xdist
    config.option.loadscopereorder = False


def pytest_collection_finish(session):
  gc.collect()
  gc.freeze()


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.name not in _LONG)
