// The health check of Compose's MongoDB, run after users.js. Healthy means that the application can log in and read its
// database. A user that does not exist, has another password than /secrets or lacks its role is repaired by root. So this
// creates the application's user at the first start, and again after it was dropped.
function applicationCanRead() {
  if (!logIn('balanza')) return false;
  try {
    db.getSiblingDB('balanza').users.findOne({}, { _id: 1 });
    return true;
  } catch (error) {
    if (error.codeName === 'Unauthorized') return false;
    throw error;
  }
}

try {
  if (!applicationCanRead()) {
    if (!logIn('root')) {
      throw new Error('MongoDB accepts no password of the volume "secrets": "sh services/new-passwords.sh" gives it new ones');
    }
    setUser('balanza');
    print('root has set the password and the role of the user balanza');
  }
} catch (error) { // without a stack, which would hide the reason in "docker inspect"
  print(error.message);
  quit(1);
}
