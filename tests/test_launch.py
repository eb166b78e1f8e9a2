"""The scripts in launch/: what they print, what they run, how they end."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import runs

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / 'launch').glob('*.sh'))
PLACE = ['--name', 'pod', '--project', 'P', '--zone', 'Z']
CLUSTER = [*PLACE, '--cluster', 'C']


@pytest.fixture
def tools(tmp_path):
  """Programs that only write down how they were called."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  for name in ('gcloud', 'xpk', 'kubectl', 'git'):
    tool = folder / name
    tool.write_text(
      f'#!{sys.executable}\n'
      'import json, os, sys\n'
      f'with open({str(tmp_path / "calls")!r}, "a") as file:\n'
      f'  file.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")\n'
      'if "describe" in sys.argv:\n'
      f'  answers = {str(tmp_path / "answers")!r}\n'
      '  lines = open(answers).read().split()\n'
      '  print(lines[0])\n'
      '  open(answers, "w").write(" ".join(lines[1:]))\n'
    )
    tool.chmod(0o755)
  return tmp_path


def calls(tools):
  path = tools / 'calls'
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def launch(script, *arguments, tools=None, **environment):
  path = os.environ['PATH']
  return subprocess.run(
    [ROOT / 'launch' / script, *arguments],
    cwd=ROOT,
    env={
      **os.environ,
      'PYTHON': sys.executable,
      'PATH': f'{tools / "bin"}:{path}' if tools else path,
      **environment,
    },
    capture_output=True,
    text=True,
    timeout=240,
  )


def test_there_are_four_scripts():
  assert SCRIPTS == ['gke_xpk.sh', 'local_pod.sh', 'run.sh', 'tpu_vm.sh']


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_script_parses_is_strict_and_explains_itself(script):
  path = ROOT / 'launch' / script
  subprocess.run(['bash', '-n', path], check=True)
  assert 'set -euo pipefail' in path.read_text()
  done = launch(script, '--help')
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith(f'usage: launch/{script} ')
  assert '--dry_run' in done.stdout


RUN = ['--', '--config=configs/bert_lamb.py:paper', '--config.title=two words']
REMOTE = (
  'launch/run.sh --report /mnt/w/report.html -- {python} -m jaxlab.main '
  "--config=configs/bert_lamb.py:paper '--config.title=two words' "
  '--distributed --workdir=/mnt/w'
)
VM = 'gcloud compute tpus tpu-vm'
QUEUE = 'gcloud compute tpus queued-resources'
COMMANDS = {
  'tpu_vm.sh create': (
    [*PLACE, '--type', 'v3-32', '--runtime', 'R', '--spot'],
    [
      f'{QUEUE} create pod --node-id pod --project P --zone Z '
      '--accelerator-type v3-32 --runtime-version R --spot',
      f'{QUEUE} describe pod --project P --zone Z '
      '"--format=value(state.state)"',
    ],
  ),
  'tpu_vm.sh copy': (
    PLACE,
    [
      'git archive --format=tar.gz -o ARCHIVE HEAD',
      f'{VM} scp ARCHIVE pod:jaxlab.tar.gz --project P --zone Z --worker=all',
      f'{VM} ssh pod --project P --zone Z --worker=all --command SHELL',
    ],
  ),
  'tpu_vm.sh run': (
    [*PLACE, '--workdir', '/mnt/w', *RUN],
    [f'{VM} ssh pod --project P --zone Z --worker=all --command SHELL'],
  ),
  'tpu_vm.sh tail': (
    PLACE,
    [f'{VM} ssh pod --project P --zone Z --worker=0 --command SHELL'],
  ),
  'tpu_vm.sh stop': (
    PLACE,
    [f'{VM} ssh pod --project P --zone Z --worker=all --command SHELL'],
  ),
  'tpu_vm.sh delete': (
    PLACE,
    [f'{QUEUE} delete pod --project P --zone Z --force --quiet'],
  ),
  'gke_xpk.sh create': (
    [*CLUSTER, '--type', 'v4-32', '--image', 'I', '--workdir', '/mnt/w', *RUN],
    [
      'xpk workload create --workload pod --cluster C --project P --zone Z '
      '--tpu-type=v4-32 --num-slices=1 --max-restarts=10 '
      '--base-docker-image=I --script-dir=. '
      '--termination-grace-period-seconds=120 --command SHELL'
    ],
  ),
  'gke_xpk.sh tail': (
    CLUSTER,
    [
      'kubectl logs --follow --tail=100 --selector '
      'jobset.sigs.k8s.io/jobset-name=pod,'
      'batch.kubernetes.io/job-completion-index=0'
    ],
  ),
  'gke_xpk.sh list': (
    CLUSTER,
    ['xpk workload list --cluster C --project P --zone Z'],
  ),
  'gke_xpk.sh delete': (
    CLUSTER,
    ['xpk workload delete --workload pod --cluster C --project P --zone Z'],
  ),
}
SHELL = {  # what the remote shell is told, word by word
  'tpu_vm.sh run': REMOTE.format(python='.venv/bin/python'),
  'tpu_vm.sh tail': 'tail -n 100 -F jaxlab.log',
  'tpu_vm.sh stop': 'kill -TERM',
  'tpu_vm.sh copy': 'python3 -m uv pip install -q -e ".[run]" "jax[tpu]"',
  'gke_xpk.sh create': REMOTE.format(python='python3'),
}


def words(call):
  """A call, with what differs from run to run or stands in SHELL replaced."""
  call = list(call)
  if '--command' in call:
    call[call.index('--command') + 1] = 'SHELL'
  return [
    'ARCHIVE' if '/' in word and word.endswith('.tar.gz') else word
    for word in call
  ]


def shell_of(call):
  return call[call.index('--command') + 1]


def contains(shell, wanted):
  text = shlex.split(shell.replace('\n', ' '))
  part = shlex.split(wanted)
  return any(
    text[i : i + len(part)] == part for i in range(len(text) - len(part) + 1)
  )


@pytest.mark.parametrize('command', COMMANDS)
def test_a_dry_run_prints_the_commands_that_a_run_runs(command, tools):
  script, verb = command.split()
  options, wanted = COMMANDS[command]
  wanted = [shlex.split(line) for line in wanted]
  dry = launch(
    script, verb, *options[:2], '--dry_run', *options[2:], tools=tools
  )
  assert (dry.returncode, dry.stderr) == (0, '')
  assert calls(tools) == []
  # One command a line; a line break within a word is quoted.
  printed = [bash_words(line) for line in dry.stdout.splitlines()]
  assert [words(call) for call in printed] == wanted
  again = launch(script, verb, *options, tools=tools, DRY_RUN='1')
  assert again.stdout == dry.stdout
  assert calls(tools) == []

  (tools / 'answers').write_text('ACTIVE')
  done = launch(script, verb, *options, tools=tools, TMPDIR='/tmp')
  assert (done.returncode, done.stderr) == (0, '')
  ran = calls(tools)
  assert [words(call) for call in ran] == wanted
  if command in SHELL:
    assert contains(shell_of(ran[-1]), SHELL[command])
    assert shell_of(printed[-1]) == shell_of(ran[-1])
    subprocess.run(['bash', '-n', '-c', shell_of(ran[-1])], check=True)


def bash_words(line):
  """The words that bash makes of a line."""
  done = subprocess.run(
    ['bash', '-c', f"printf '%s\\0' {line}"],
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.split('\0')[:-1]


@pytest.mark.parametrize(
  'type, runtime',
  [
    ('v3-32', 'tpu-ubuntu2204-base'),
    ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
    ('v5p-8', 'v2-alpha-tpuv5'),
    ('v6e-8', 'v2-alpha-tpuv6e'),
  ],
)
def test_the_runtime_version_follows_from_the_type(type, runtime):
  done = launch('tpu_vm.sh', 'create', *PLACE, '--type', type, '--dry_run')
  assert f'--runtime-version {runtime} ' in done.stdout
  assert runtime in launch('tpu_vm.sh', '--help').stdout


@pytest.mark.parametrize(
  'options, wanted',
  [
    (['--storage', 's', '--spot'], '--storage=s --spot'),
    (['--reservation', 'r'], '--reservation=r'),
    (['--grace', '600'], '--termination-grace-period-seconds=600'),
  ],
)
def test_what_xpk_is_to_use_is_passed_on(options, wanted):
  made = COMMANDS['gke_xpk.sh create'][0]
  done = launch('gke_xpk.sh', 'create', '--dry_run', *options, *made)
  assert done.returncode == 0, done.stderr
  assert f' {wanted} ' in done.stdout


def test_an_image_takes_no_runs_and_no_history():
  left_out = (ROOT / '.dockerignore').read_text().split()
  assert {'.git', '.venv', 'runs', '**/__pycache__'} <= {*left_out}
  tracked = subprocess.run(
    ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout.split()
  tops = {name.split('/')[0] for name in tracked} - {*left_out}
  assert {'jaxlab', 'configs', 'launch', 'setup.cfg', 'README.md'} <= tops


def test_a_request_that_fails_is_an_error(tools):
  (tools / 'answers').write_text('FAILED')
  options = COMMANDS['tpu_vm.sh create'][0]
  done = launch('tpu_vm.sh', 'create', *options, tools=tools)
  assert done.returncode == 2
  assert 'tpu_vm.sh: the request is FAILED' in done.stderr


@pytest.mark.parametrize(
  'line, message',
  [
    ('tpu_vm.sh', 'a command is missing: create, copy, run'),
    ('tpu_vm.sh fly --name x', 'unknown command fly'),
    ('tpu_vm.sh tail --name x --zone z', 'tail needs --project'),
    ('tpu_vm.sh tail --name --zone z', '--name needs a value'),
    ('tpu_vm.sh tail --name', '--name needs a value'),
    ('tpu_vm.sh tail delete', 'two commands: tail and delete'),
    (f'tpu_vm.sh create {" ".join(PLACE)}', 'create needs --type'),
    (f'tpu_vm.sh run {" ".join(PLACE)} -- --config=x', 'run needs --workdir'),
    (f'tpu_vm.sh run {" ".join(PLACE)} --workdir /w', 'run needs the options'),
    (
      f'tpu_vm.sh run {" ".join(PLACE)} --config=x',
      'unknown option --config=x',
    ),
    (f'tpu_vm.sh delete {" ".join(PLACE)} -- a', 'delete takes nothing after'),
    ('gke_xpk.sh list --project p --zone z', 'list needs --cluster'),
    ('gke_xpk.sh delete --cluster c --project p --zone z', 'needs --name'),
    (f'gke_xpk.sh create {" ".join(CLUSTER)} -- a', 'create needs --type'),
    (f'gke_xpk.sh list {" ".join(CLUSTER)} --slices 0', 'slices must be at'),
    (f'gke_xpk.sh list {" ".join(CLUSTER)} --grace x', 'must be seconds'),
    (
      f'gke_xpk.sh list {" ".join(CLUSTER)} --spot --reservation r',
      'either --spot or',
    ),
    (f'tpu_vm.sh create {" ".join(PLACE)} --type v9-8', 'give --runtime'),
    ('local_pod.sh', "N must be a number of processes, at least 1, not ''"),
    ('local_pod.sh two -- a', "at least 1, not 'two'"),
    ('local_pod.sh 0 -- a', "at least 1, not '0'"),
    ('local_pod.sh 2 3 -- a', 'two numbers of processes: 2 and 3'),
    (
      'local_pod.sh 2 --devices 0 -- a',
      "--devices must be at least 1, not '0'",
    ),
    ('local_pod.sh 2', 'nothing to run: give the options of jaxlab.main'),
    ('local_pod.sh 2 --config=x', 'unknown option --config=x'),
    ('run.sh', 'nothing to run: give a command after --'),
    ('run.sh --restarts many -- a', "must be a number, not 'many'"),
    ('run.sh --pause -1 -- a', "--pause must be seconds, not '-1'"),
    ('run.sh --again -- a', 'unknown option --again'),
  ],
)
def test_a_mistake_is_named_and_nothing_runs(line, message, tools):
  script, *arguments = line.split()
  done = launch(script, *arguments, tools=tools)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith(f'{script}: ')
  assert message in done.stderr
  assert done.stdout == ''
  assert calls(tools) == []


def test_a_dry_local_pod_prints_a_command_for_each_process():
  done = launch(
    'local_pod.sh', '2', '--devices=3', '--', '--config=x', DRY_RUN='1'
  )
  lines = done.stdout.splitlines()
  assert lines == [
    f'JAX_PLATFORMS=cpu {sys.executable} -m jaxlab.main --config=x '
    '--cpu_devices=3 --coordinator=127.0.0.1:PORT --num_processes=2 '
    f'--process_id={index}'
    for index in range(2)
  ]


PODLING = """
import os, signal, sys, time
index = int(sys.argv[-1].split('=')[1])
what = sys.argv[1].split(',')[index]
print('does', what, flush=True)
signal.signal(signal.SIGTERM, lambda *args: sys.exit(75))
print('[Gloo] Rank 0 is connected to 1 peer ranks', flush=True)
if what == 'hangs':
  time.sleep(1000)
time.sleep(0.2 * index)
sys.exit(int(what))
"""


@pytest.fixture
def podling(tmp_path):
  (tmp_path / 'podling.py').write_text(PODLING)
  return {
    'JAXLAB_MODULE': 'podling',
    'PYTHONPATH': str(tmp_path),
    'JAXLAB_GRACE': '1',
  }


@pytest.mark.parametrize(
  'what, code', [('0,0,0', 0), ('0,3,76', 3), ('hangs,2,hangs', 2)]
)
def test_a_local_pod_ends_with_the_first_failure(podling, what, code):
  began = time.monotonic()
  done = launch('local_pod.sh', '3', '--', what, **podling)
  assert done.returncode == code, done.stderr
  wanted = [f'[{i}] does {x}' for i, x in enumerate(what.split(','))]
  assert sorted(done.stdout.splitlines()) == wanted
  assert time.monotonic() - began < 60


def test_sigterm_to_a_local_pod_goes_to_all(podling):
  process = subprocess.Popen(
    [ROOT / 'launch' / 'local_pod.sh', '2', '--', 'hangs,hangs'],
    cwd=ROOT,
    env={**os.environ, **podling, 'PYTHON': sys.executable},
    stdout=subprocess.PIPE,
    text=True,
  )
  said = [process.stdout.readline() for _ in range(2)]
  assert sorted(said) == ['[0] does hangs\n', '[1] does hangs\n']
  time.sleep(0.3)  # until both have their handlers
  process.send_signal(signal.SIGTERM)
  process.communicate(timeout=60)
  assert process.returncode == 75


@pytest.fixture
def command(tmp_path):
  """A command that ends with the exit codes given, one a run."""
  path = tmp_path / 'command'
  path.write_text(
    f'#!{sys.executable}\n'
    'import pathlib, signal, sys, time\n'
    'runs = pathlib.Path(sys.argv[1])\n'
    'done = runs.read_text() if runs.exists() else ""\n'
    'code = sys.argv[2 + len(done)]\n'
    'runs.write_text(done + ".")\n'
    'signal.signal(signal.SIGTERM, lambda *args: sys.exit(75))\n'
    'if code == "hangs":\n'
    '  time.sleep(1000)\n'
    'if code == "report":\n'
    '  runs.with_name("report").touch()\n'
    '  code = 0\n'
    'sys.exit(int(code))\n'
  )
  path.chmod(0o755)
  return [str(path), str(tmp_path / 'runs')]


@pytest.mark.parametrize(
  'codes, runs, code',
  [
    (['75', '76', '0'], 3, 0),
    (['134', '0'], 2, 0),
    (['75', '2', '0'], 2, 2),
    (['3', '0'], 1, 3),
    (['76', '75', '76', '0'], 3, 76),  # two restarts are allowed
  ],
)
def test_run_restarts_after_75_76_and_134_alone(command, codes, runs, code):
  options = ['--pause', '0.1', '--restarts', '2', '--']
  done = launch('run.sh', *options, *command, *codes)
  assert done.returncode == code, done.stderr
  assert Path(command[1]).read_text() == '.' * runs
  said = done.stderr.splitlines()
  assert said[:1] == (
    [f'run.sh: exit code {codes[0]}; restart 1 of 2 in 0.1 s']
    if runs > 1
    else []
  )
  if code == 76:
    assert said[-1] == 'run.sh: exit code 76 after 2 restarts; giving up'


def test_run_goes_on_until_the_report_exists(command, tmp_path):
  report = str(tmp_path / 'report')
  options = ['--pause', '0.1', '--report', report, '--']
  done = launch('run.sh', *options, *command, '76', 'report')
  assert done.returncode == 0, done.stderr
  assert Path(command[1]).read_text() == '..'
  done = launch('run.sh', *options, *command, '0')
  assert done.returncode == 0
  assert f'run.sh: {report} is there' in done.stderr
  assert Path(command[1]).read_text() == '..'


def test_a_signal_to_run_is_handed_on_and_is_the_last(command):
  process = subprocess.Popen(
    [ROOT / 'launch' / 'run.sh', '--pause=0.1', '--', *command, 'hangs', '0']
  )
  until = time.monotonic() + 30
  while not Path(command[1]).exists() and time.monotonic() < until:
    time.sleep(0.02)
  time.sleep(0.3)  # until the command has its handler
  process.send_signal(signal.SIGTERM)
  assert process.wait(60) == 75
  assert Path(command[1]).read_text() == '.'


def test_a_dry_run_prints_the_command_and_when_it_is_repeated(command):
  done = launch('run.sh', '--dry_run', '--report', 'R', '--', *command, '3')
  assert done.stdout.splitlines() == [
    f'{" ".join(command)} 3',
    '# again after exit code 75, 76 or 134, at most 100 times, 10 s apart, '
    'until R exists',
  ]
  assert not Path(command[1]).exists()


@pytest.mark.slow
def test_a_local_pod_pretrains_bert_as_one_process_does(tmp_path):
  """The real command; tests/test_pod.py runs a toy in every default run."""
  options = [
    '--config=configs/bert_lamb.py:smoke',
    '--config.data.vocab_size=512',
    '--config.data.sequence_length=32',
    '--config.model.hidden_size=32',
    '--config.model.intermediate_size=64',
    '--config.data.batch_size=16',
    '--config.optimizer.warmup_steps=4',
    '--config.train.steps=12',
    '--config.train.log_every_steps=1',
  ]
  environment = runs.environment_of(tmp_path)
  losses = []
  for count, devices in ((1, 8), (2, 4)):
    folder = tmp_path / str(count)
    done = launch(
      'local_pod.sh',
      str(count),
      f'--devices={devices}',
      '--',
      *options,
      f'--workdir={folder}',
      **environment,
    )
    assert done.returncode == 0, done.stderr
    text = (folder / 'pretrain' / 'metrics.jsonl').read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    losses.append([x['loss'] for x in lines if x['kind'] == 'train'])
  assert len(losses[0]) == 12
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)
