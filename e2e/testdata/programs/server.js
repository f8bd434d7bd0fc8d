// A server that knows only $PORT. Each POST appends the text that it brings to a file, before it is answered.
const fs = require('fs')
const http = require('http')

http.createServer((request, response) => {
  let body = ''
  request.on('data', (piece) => { body += piece })
  request.on('end', () => {
    if (request.method === 'POST') fs.appendFileSync(process.env.RECORD, body + '\n')
    const answer = () => response.setHeader('X-Pid', process.pid).end(`${process.pid}\n`)
    const delay = Number(new URL(request.url, 'http://localhost').searchParams.get('delay'))
    delay ? setTimeout(answer, delay) : answer()
  })
}).listen(process.env.PORT)

process.on('SIGTERM', () => process.exit(0))
