#!/usr/bin/env node
/**
 * From a clone with nothing installed to a running script: `node scripts/bootstrap.mjs NAME [args]`
 * checks Node, installs the packages, builds, and runs dist/scripts/NAME.js. Plain JavaScript with
 * nothing but built-ins, and no syntax that an outdated Node would trip over before it is told so.
 *
 * The script runs in this process: its exit code is ours, and nothing stands between it and a signal.
 * A Ctrl-C under npm arrives twice (from the terminal and from npm); the second is dropped here.
 */
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const SCRIPTS = [
  'quickstart',
  'test',
  'bench',
  'drill',
  'chaos',
  'fuzz',
  'simulate',
  'setup-tools',
  'build',
];
const NODE_MIN = [20, 20];
const LOCK_MS_MAX = 10 * 60 * 1000;
const SIGNAL_ECHO_MS = 500;
const PARENT_POLL_MS = 250;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const stamp = join(root, 'dist', '.built');
const lock = join(root, '.build', 'bootstrap.lock');

function fail(line, code = 1) {
  console.error(line);
  process.exit(code);
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > NODE_MIN[0] || (major === NODE_MIN[0] && minor >= NODE_MIN[1])) return;
  fail(
    `blockferry needs Node ${NODE_MIN.join('.')} or newer, this is ${process.versions.node}: install one from https://nodejs.org`,
  );
}

/** Modification time in milliseconds, 0 when it does not exist. */
function mtime(path) {
  return fs.statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** The youngest file or directory of a tree: a directory is touched when a file in it goes away. */
function newest(path) {
  const stat = fs.statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return 0;
  if (!stat.isDirectory()) return stat.mtimeMs;
  let result = stat.mtimeMs;
  for (const entry of fs.readdirSync(path)) result = Math.max(result, newest(join(path, entry)));
  return result;
}

/** Runs a step quietly; its output is shown when it fails. */
function step(what, command, args) {
  console.log(`${what} ...`);
  const result = spawnSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 });
  if (result.status === 0) return;
  process.stderr.write(`${result.stdout || ''}${result.stderr || ''}`);
  const why = result.error ? result.error.message : `exit ${result.status ?? result.signal}`;
  fail(`${what} failed (${why}); the output is above`);
}

function needsInstall() {
  const installed = mtime(join(root, 'node_modules', '.package-lock.json'));
  return installed === 0 || installed < mtime(join(root, 'package-lock.json'));
}

function needsBuild() {
  const built = mtime(stamp);
  if (built === 0) return true;
  const inputs = [
    'src',
    'scripts',
    'test',
    'tsconfig.json',
    'vitest.config.ts',
    'package-lock.json',
  ];
  return inputs.some((input) => newest(join(root, input)) > built);
}

/**
 * Installs exactly what the lock file says and leaves it as it is. Not `npm ci`: that refuses a lock
 * file without the optional binaries of every platform, which a registry mirror may not carry.
 */
function install() {
  const args = ['install', '--no-save', '--no-audit', '--no-fund', '--include=dev'];
  const npm = process.env.npm_execpath;
  if (npm && /\.c?js$/.test(npm)) step('installing packages', process.execPath, [npm, ...args]);
  else step('installing packages', 'npm', args);
  const now = new Date(); // npm leaves the file alone when it found nothing to do
  fs.utimesSync(join(root, 'node_modules', '.package-lock.json'), now, now);
}

function build() {
  // The stamp says "built without errors": tsc also writes files when it found some.
  const started = new Date();
  fs.rmSync(stamp, { force: true });
  step('building', process.execPath, [
    join('node_modules', 'typescript', 'bin', 'tsc'),
    '-p',
    'tsconfig.json',
  ]);
  fs.rmSync(join(root, 'dist', 'bundle'), { recursive: true, force: true });
  step('bundling', process.execPath, [join('scripts', 'bundle.mjs')]);
  fs.writeFileSync(stamp, '');
  fs.utimesSync(stamp, started, started); // a source saved during the build is newer
}

function pidAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** One bootstrap at a time installs and builds; a lock whose owner is gone is taken over. */
function withLock(work) {
  fs.mkdirSync(dirname(lock), { recursive: true });
  const deadline = Date.now() + LOCK_MS_MAX;
  for (;;) {
    try {
      fs.writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    let owner = 0;
    try {
      owner = Number(fs.readFileSync(lock, 'utf8'));
    } catch {
      continue; // released just now
    }
    // An empty file is an owner that has not yet written its pid.
    const abandoned = owner > 0 ? !pidAlive(owner) : Date.now() - mtime(lock) > 5000;
    if (abandoned) fs.rmSync(lock, { force: true });
    else if (Date.now() > deadline)
      fail(`process ${owner} has been building for too long: ${lock}`);
    else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
  }
  const release = () => fs.rmSync(lock, { force: true });
  process.once('exit', release);
  work();
  release();
  process.off('exit', release);
}

function prepare() {
  if (!needsInstall() && !needsBuild()) return;
  withLock(() => {
    if (needsInstall()) install();
    if (needsBuild()) build();
  });
}

function dropSignalEchoes() {
  const last = new Map();
  const emit = process.emit;
  process.emit = function emitOnce(name, ...args) {
    if (name === 'SIGINT' || name === 'SIGTERM') {
      const now = performance.now();
      const echo = now - (last.get(name) ?? -SIGNAL_ECHO_MS) < SIGNAL_ECHO_MS;
      last.set(name, now);
      if (echo) return true;
    }
    return emit.call(this, name, ...args);
  };
}

/**
 * npm that is killed cannot pass the signal on, and a shell between npm and here does not: when the
 * parent is gone, the script is told to stop all the same.
 */
function endWithNpm() {
  if (!process.env.npm_lifecycle_event) return;
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(watch);
    process.kill(process.pid, 'SIGTERM');
  }, PARENT_POLL_MS);
  watch.unref();
}

checkNode();
const [name, ...args] = process.argv.slice(2);
if (!SCRIPTS.includes(name))
  fail(`usage: node scripts/bootstrap.mjs <${SCRIPTS.join('|')}> [args]`, 2);
prepare();
if (name !== 'build') {
  const script = join(root, 'dist', 'scripts', `${name}.js`);
  if (!fs.existsSync(script)) fail(`no such script in this version: ${name}`);
  process.argv = [process.execPath, script, ...args];
  process.setSourceMapsEnabled(true);
  dropSignalEchoes();
  endWithNpm();
  await import(pathToFileURL(script).href);
}
