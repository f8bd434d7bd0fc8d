// What Balanza is measured against: the same two routes on Express, as a Node.js course would have them written.
// node server.js --port 8080 --mode FORK|CLUSTER [--workers N]; under PM2's cluster mode it is started as FORK.
'use strict';

const { fork } = require('node:child_process');
const cluster = require('node:cluster');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');
const express = require('express');

const { values: options } = parseArgs({
  options: {
    port: { type: 'string', default: '8080' },
    mode: { type: 'string', default: 'FORK' },
    workers: { type: 'string', default: String(os.availableParallelism()) },
  },
});

function serve() {
  const app = express();
  app.set('views', path.join(__dirname, 'views'));
  app.set('view engine', 'ejs');
  app.use((req, res, next) => {
    res.set('X-Pid', String(process.pid));
    next();
  });
  app.get('/info', (req, res) => {
    const info = {
      arguments: process.argv.slice(2),
      path: process.execPath,
      platform: process.platform,
      pid: process.pid,
      version: process.version,
      folder: process.cwd(),
      rss: process.memoryUsage.rss(), // cheaper than process.memoryUsage(), to Express' advantage
      cpus: os.availableParallelism(),
      mode: options.mode,
      uptime: process.uptime(),
    };
    if (req.accepts(['html', 'json']) === 'json') res.json(info);
    else res.render('info', { info });
  });
  app.get('/api/randoms', (req, res, next) => {
    const child = fork(path.join(__dirname, 'randoms.js'));
    child.once('error', next);
    child.once('message', (counts) => res.json(counts));
    child.send(Number(req.query.cant ?? 100_000_000));
  });
  app.listen(Number(options.port), '127.0.0.1');
}

if (options.mode === 'CLUSTER' && cluster.isPrimary) {
  for (let i = 0; i < Number(options.workers); i++) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else {
  serve();
}
