// Run once by the mongo image, at its first start: the application's user, who may read and write its own database only.
db.getSiblingDB('balanza').createUser({
  user: 'balanza',
  pwd: require('fs').readFileSync('/secrets/mongo-password', 'utf8').trim(),
  roles: [{ role: 'readWrite', db: 'balanza' }],
});
