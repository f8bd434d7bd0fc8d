// The mongo image runs this once, at its first start. The application's user may read and write its own database only.
db.getSiblingDB('balanza').createUser({
  user: 'balanza',
  pwd: require('fs').readFileSync('/secrets/mongo-password', 'utf8').trim(),
  roles: [{ role: 'readWrite', db: 'balanza' }],
});
