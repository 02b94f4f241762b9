// The virtual machine as other projects get it: installed into an empty prefix, found by
// pkg-config, compiled against as C and C++, shared and static, and run.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('../../../', import.meta.url)).replace(/\/$/, '');
const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-vm-library-'));
t.teardown(() => rmSync(dir, { recursive: true, force: true }));
t.setTimeout(120_000);

// Installed, then moved: the prefix is nowhere written down.
const prefix = join(dir, 'moved');
const lib = join(prefix, 'lib');
const env = { ...process.env, PKG_CONFIG_PATH: join(lib, 'pkgconfig'), LD_LIBRARY_PATH: lib };

function run(command: string, ...args: string[]): string {
  const ran = spawnSync(command, args, { encoding: 'utf8', env, cwd: dir });
  if (ran.status !== 0) throw new Error(`${command} ${args.join(' ')}\n${ran.stderr}${ran.error}`);
  return ran.stdout;
}

const words = (text: string) => text.trim().split(/\s+/);
const flags = (...args: string[]) => words(run('pkg-config', ...args, 'bpftime_vm'));

await t.test('it installs, and may be moved', async (t) => {
  run('cmake', '--install', `${root}/build`, '--prefix', join(dir, 'made'));
  renameSync(join(dir, 'made'), prefix);
  const { version } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
  t.equal(run('pkg-config', '--modversion', 'bpftime_vm').trim(), version);
  const soname = /SONAME.*\[(.*)\]/.exec(run('readelf', '-d', join(lib, 'libbpftime_vm.so')))?.[1];
  t.equal(soname, `libbpftime_vm.so.${version.split('.').slice(0, 2).join('.')}`);
  t.equal(readFileSync(join(prefix, 'include/bpftime/vm.h'), 'utf8').includes('bpftime_vm'), true);
  const page = readFileSync(join(prefix, 'share/man/man3/bpftime_vm.3'), 'utf8');
  t.match(page, /bpftime_vm_exec_limited/);
});

await t.test('it exports what its headers declare, and needs libc and libstdc++', async (t) => {
  const headers = ['vm.h', 'ubpf.h'].map((name) =>
    readFileSync(join(prefix, 'include/bpftime', name), 'utf8'),
  );
  const declared = [...headers.join('').matchAll(/^BPFTIME_VM_API[^(]*?(\w+)\(/gm)].map(
    ([, name = '']) => name.replace(/^ubpf_/, 'bpftime_ubpf_'),
  );
  t.ok(declared.length > 10, declared.join(' '));
  const shared = join(lib, 'libbpftime_vm.so');
  const symbols = (...args: string[]) =>
    run('nm', '-D', ...args, shared)
      .trimEnd()
      .split('\n')
      .map((line) => words(line).at(-1)!);
  const exported = symbols('--defined-only').filter((name) => !/^BPFTIME_VM\b/.test(name));
  t.same(exported.map((name) => name.replace(/@.*/, '')).sort(), declared.sort());
  const foreign = symbols('--undefined-only').filter(
    (name) => !/@(GLIBC|GLIBCXX|CXXABI|GCC)_|^(_ITM_\w+|__gmon_start__)$/.test(name),
  );
  t.same(foreign, [], 'every undefined symbol is libc, libstdc++ or the compiler');
  const needed = [...run('readelf', '-d', shared).matchAll(/NEEDED.*\[(.*)\]/g)].map((m) => m[1]!);
  t.same(
    needed.filter((name) => !/^(libc|libstdc\+\+|libgcc_s|libm|ld-linux-x86-64)\.so/.test(name)),
    [],
  );
});

const EMBED_C =
  /^refused: instruction 0: .*struct order.*\n7 x 10 = 70\n80 x 25 = 1800\nstopped after a millisecond\n$/;
// value = 2 (value + 1), 50 times from 0: 2^51 - 2
const EMBED_CC = new RegExp(`^(${2 ** 51 - 2}\\n){4}$`);
const strict = ['-Wall', '-Wextra', '-Wpedantic', '-Werror', '-O1'];

const examples = [
  { source: 'docs/vm/embed.c', compile: ['cc', '-std=c99'], shown: EMBED_C },
  { source: 'docs/vm/embed.cc', compile: ['c++', '-std=c++17'], shown: EMBED_CC },
];

await t.test('the examples compile against it, shared and static, and run', async (t) => {
  for (const { source, compile, shown } of examples) {
    const [compiler = '', ...options] = compile;
    const build = (out: string, ...link: string[]) =>
      run(compiler, ...options, ...strict, `${root}/${source}`, '-o', out, ...link);
    build('shared', ...flags('--cflags', '--libs'));
    t.match(run('readelf', '-d', 'shared'), /NEEDED.*libbpftime_vm\.so/, `${source}: shared`);
    t.match(run('./shared'), shown, `${source}, shared`);
    build('static', '-static', ...flags('--static', '--cflags', '--libs'));
    t.notMatch(run('readelf', '-d', 'static'), /NEEDED/, `${source}: static`);
    t.match(run('./static'), shown, `${source}, static`);
  }
});
