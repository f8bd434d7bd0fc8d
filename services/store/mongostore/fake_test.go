package mongostore

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
	"go.mongodb.org/mongo-driver/x/mongo/driver/wiremessage"
)

// serveWire speaks MongoDB's wire protocol on a listener until the test ends. answer gets each command by its name, but for
// the greeting; without an answer the connection is closed.
func serveWire(t *testing.T, ln net.Listener, answer func(command string) bson.D) (address string) {
	t.Helper()
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for answerWire(c, answer) == nil {
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// opQuery is the old form of a command, which the greeting of a new connection has.
const opQuery wiremessage.OpCode = 2004

// answerWire reads one command and answers it.
func answerWire(c net.Conn, answer func(command string) bson.D) error {
	size := make([]byte, 4)
	if _, err := io.ReadFull(c, size); err != nil {
		return err
	}
	m := make([]byte, binary.LittleEndian.Uint32(size))
	copy(m, size)
	if _, err := io.ReadFull(c, m[4:]); err != nil {
		return err
	}
	_, id, _, code, rest, _ := wiremessage.ReadHeader(m)
	var command bsoncore.Document
	if code == opQuery { // flags, the name of a collection and two numbers come before the command
		_, rest, _ = bytes.Cut(rest[4:], []byte{0})
		command = rest[8:]
	} else {
		_, rest, _ = wiremessage.ReadMsgFlags(rest)
		_, rest, _ = wiremessage.ReadMsgSectionType(rest)
		command, _, _ = wiremessage.ReadMsgSectionSingleDocument(rest)
	}
	first, err := command.IndexErr(0)
	if err != nil {
		return err
	}
	reply := bson.D{{Key: "isWritablePrimary", Value: true}, {Key: "maxWireVersion", Value: 21}, {Key: "minWireVersion", Value: 0},
		{Key: "saslSupportedMechs", Value: bson.A{"SCRAM-SHA-256"}}, {Key: "ok", Value: 1}}
	if name := first.Key(); name != "isMaster" && name != "hello" {
		reply = answer(name)
	}
	if reply == nil {
		return io.EOF
	}
	document, err := bson.Marshal(reply)
	if err != nil {
		return err
	}
	var out []byte
	if code == opQuery {
		_, out = wiremessage.AppendHeaderStart(nil, 0, id, wiremessage.OpReply)
		out = wiremessage.AppendReplyFlags(out, 0)
		out = wiremessage.AppendReplyCursorID(out, 0)
		out = wiremessage.AppendReplyStartingFrom(out, 0)
		out = wiremessage.AppendReplyNumberReturned(out, 1)
	} else {
		_, out = wiremessage.AppendHeaderStart(nil, 0, id, wiremessage.OpMsg)
		out = wiremessage.AppendMsgFlags(out, 0)
		out = wiremessage.AppendMsgSectionType(out, wiremessage.SingleDocument)
	}
	out = append(out, document...)
	binary.LittleEndian.PutUint32(out, uint32(len(out)))
	_, err = c.Write(out)
	return err
}

// works answers every command of a store that has nothing.
func works(command string) bson.D {
	return bson.D{{Key: "ok", Value: 1}, {Key: "cursor", Value: bson.D{
		{Key: "id", Value: int64(0)}, {Key: "ns", Value: "balanza.entries"}, {Key: "firstBatch", Value: bson.A{}},
	}}}
}

// codeNames are MongoDB's.
var codeNames = map[int]string{
	userNotFound: "UserNotFound", unauthorized: "Unauthorized", authenticationFailed: "AuthenticationFailed", 91: "ShutdownInProgress",
	mechanismUnavailable: "MechanismUnavailable", atlasError: "AtlasError", 10107: "NotWritablePrimary",
}

// fails answers a command with an error of MongoDB, and others as works does.
func fails(command string, code int) func(string) bson.D {
	return func(name string) bson.D {
		if name != command {
			return works(name)
		}
		if code == 0 {
			return nil
		}
		return bson.D{{Key: "ok", Value: 0}, {Key: "errmsg", Value: "no"}, {Key: "code", Value: code}, {Key: "codeName", Value: codeNames[code]}}
	}
}

// listen listens on a free port of this machine.
func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}
