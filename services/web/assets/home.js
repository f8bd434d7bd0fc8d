// The start page: one websocket, of which the chat and the products live.

import { Chat } from './chat.js';
import { Products } from './products.js';
import { Socket } from './socket.js';

const chat = new Chat();
const socket = new Socket('/ws', () => chat.last);
chat.follow(socket);
new Products().follow(socket);

const state = document.getElementById('state');
socket.addEventListener('state', ({ detail }) => {
  state.dataset.state = detail;
  state.textContent = state.dataset[detail];
});
