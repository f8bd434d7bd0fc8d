// server.js of e2e/testdata/programs, but for its end: as PM2's manual asks, it handles SIGINT, and ends when its requests have
// been answered.
const fs = require('fs')
const http = require('http')

const server = http.createServer((request, response) => {
  let body = ''
  request.on('data', (piece) => { body += piece })
  request.on('end', () => {
    if (request.method === 'POST') fs.appendFileSync(process.env.RECORD, body + '\n')
    response.setHeader('X-Pid', process.pid).end(`${process.pid}\n`)
  })
}).listen(process.env.PORT)

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => server.close(() => process.exit(0)))
