// Functions for the two users of Compose's MongoDB. The files in /secrets hold their passwords, which so appear on no
// command line.
const users = {
  root: { database: 'admin', role: 'root', file: '/secrets/mongo-root-password' },
  // The application may read and write its own database only.
  balanza: { database: 'balanza', role: 'readWrite', file: '/secrets/mongo-password' },
};

function password(name) {
  return fs.readFileSync(users[name].file, 'utf8').trim();
}

// logIn reports whether the server accepts the user's password.
function logIn(name) {
  try {
    db.getSiblingDB(users[name].database).auth(name, password(name));
    return true;
  } catch (error) {
    if (error.codeName === 'AuthenticationFailed') return false;
    throw error;
  }
}

// setUser gives a user its password and role, and creates the user if there is none.
function setUser(name) {
  const { database, role } = users[name];
  const owner = db.getSiblingDB(database);
  const set = roles => owner.getUser(name)
    ? owner.updateUser(name, { pwd: password(name), roles })
    : owner.createUser({ user: name, pwd: password(name), roles });
  try {
    set([{ role, db: database }]);
  } catch (error) {
    // Some servers that speak MongoDB's protocol have no roles, and the commands for users only with authentication.
    if (error.codeName === 'NotImplemented') set([]);
    else if (error.codeName === 'CommandNotFound') setCredentials(database, name);
    else throw error;
  }
}

// setCredentials writes the record that the commands for users would write, with SCRAM-SHA-256 (RFC 5802, RFC 7677).
function setCredentials(database, name) {
  const { createHash, createHmac, pbkdf2Sync, randomBytes } = require('crypto');
  const salt = randomBytes(28), iterationCount = 15000;
  const salted = pbkdf2Sync(password(name), salt, iterationCount, 32, 'sha256');
  const hmac = text => createHmac('sha256', salted).update(text).digest();
  const credentials = {
    iterationCount,
    salt: salt.toString('base64'),
    storedKey: createHash('sha256').update(hmac('Client Key')).digest('base64'),
    serverKey: hmac('Server Key').toString('base64'),
  };
  db.getSiblingDB('admin').getCollection('system.users').updateOne({ _id: `${database}.${name}` }, {
    $set: { credentials: { 'SCRAM-SHA-256': credentials } },
    $setOnInsert: { user: name, db: database, roles: [], userId: new UUID() },
  }, { upsert: true });
}
