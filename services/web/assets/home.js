// The start page: the chat and the products share one websocket.

import { Chat } from './chat.js';
import { Products } from './products.js';
import { Socket } from './socket.js';

const chat = new Chat();
const socket = new Socket('/ws', () => chat.last);
chat.connect(socket);
new Products().connect(socket);

const state = document.getElementById('state');
socket.addEventListener('state', ({ detail }) => {
  state.dataset.state = detail;
  state.textContent = state.dataset[detail];
});
