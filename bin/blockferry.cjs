#!/usr/bin/env node
'use strict';
// CommonJS on purpose: the size of libuv's pool is read at its first use, and loading an ES module is
// already one. Disk reads that miss the page cache and every fdatasync run there.
process.env.UV_THREADPOOL_SIZE ??= '32';

const { existsSync } = require('node:fs');
const { join } = require('node:path');
const { pathToFileURL } = require('node:url');

const main = join(__dirname, '..', 'dist', 'bundle', 'main.js');
if (existsSync(main)) {
  import(pathToFileURL(main).href)
    .then((module) => module.run())
    .catch((error) => {
      process.stderr.write(`blockferry cannot run: ${error.message.split('\n')[0]}\n`);
      process.exitCode = 1;
    });
} else {
  process.stderr.write(`blockferry is not built: ${main} is missing; run: npm run build\n`);
  process.exitCode = 1;
}
