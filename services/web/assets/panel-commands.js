// The commands to try: which ones depends on how the processes that the panel shows were started.

import * as format from './panel-format.js';
import { serviceOf } from './panel-model.js';

const $ = (id) => document.getElementById(id);
const COPIED_TIME = 2500; // ms for which a button says what it has done
const CONTAINER = /^[0-9a-f]{12}$/; // the host name that Docker gives a container

export class Commands {
  #list = $('commands');
  #program = this.#list.dataset.program; // how Balanza is started on the machine of the server, outside containers
  #items = new Map(); // command's name → element
  #victim = null; // id of the process that is to be killed

  constructor() {
    this.#list.addEventListener('click', ({ target }) => {
      const button = target.closest('button');
      if (button) copy(button, button.closest('li').querySelector('code'));
    });
  }

  /** Shows the commands for these processes; chosen is the one that the user has chosen. */
  show(processes, chosen) {
    const victim = this.#chooseVictim(processes, chosen);
    const commands = victim ? this.#commands(processes, victim) : [];
    for (const [name, item] of this.#items) {
      if (commands.some((c) => c.name === name)) continue;
      item.remove();
      this.#items.delete(name);
    }
    for (const { name, command, place } of commands) {
      const item = this.#items.get(name) ?? this.#add(name);
      this.#list.append(...(item.isConnected ? [] : [item]));
      const code = item.querySelector('code');
      if (code.textContent !== command) code.textContent = command;
      item.querySelector('.command-place').textContent = place;
    }
    $('commands-empty').hidden = commands.length > 0;
  }

  /** The chosen process, or a worker of a CLUSTER that stays the same as long as it is online. */
  #chooseVictim(processes, chosen) {
    const online = processes.filter(({ state }) => state === 'online');
    const last = online.find(({ id }) => id === this.#victim);
    const victim = chosen?.state === 'online' ? chosen : last ?? online.findLast(({ worker }) => worker) ?? online[0];
    this.#victim = victim?.id;
    return victim;
  }

  #commands(processes, victim) {
    const several = new Set(processes.map(({ machine }) => machine)).size > 1;
    const place = ({ machine }) => (several ? format.text('command.on', { machine }) : '');
    const cluster = processes.find((p) => p.mode === 'CLUSTER' && p.state === 'online') ?? victim;
    if (CONTAINER.test(victim.host)) return inContainers(processes, victim, cluster, place);
    const workers = processes.filter(({ server, host }) => server === cluster.server && host === cluster.host).length;
    const commands = [
      { name: 'kill', command: `kill -9 ${victim.pid}`, place: place(victim) },
      { name: 'reload', command: `${this.#program} reload ${cluster.server}`, place: place(cluster) },
    ];
    if (cluster.mode === 'CLUSTER') {
      commands.push({ name: 'scale', command: `${this.#program} scale ${cluster.server}=${workers > 2 ? 2 : 4}`, place: place(cluster) });
    }
    return [...commands, { name: 'list', command: `${this.#program} ps`, place: '' }];
  }

  #add(name) {
    const item = $('command-template').content.firstElementChild.cloneNode(true);
    const what = format.text(`command.${name}`);
    item.dataset.command = name;
    item.querySelector('.command-what').textContent = what;
    item.querySelector('button').ariaLabel = `${format.text('copy')}: ${what}`;
    this.#items.set(name, item);
    return item;
  }
}

/**
 * The commands for Docker. The image has no shell and no kill, so another container, in the same process namespace, sends the
 * signal. Its image is the one of nginx, which the stack has.
 */
function inContainers(processes, victim, cluster, place) {
  const commands = [
    {
      name: 'kill', place: place(victim),
      command: `docker run --rm --pid container:${victim.host} --entrypoint sh nginx:1.30 -c 'kill -9 ${victim.pid}'`,
    },
    { name: 'reload', command: `docker exec ${cluster.host} balanza reload`, place: place(cluster) },
  ];
  const replicas = new Set(processes.filter((p) => serviceOf(p) === 'replica').map(({ host }) => host)).size;
  if (place(victim) === '') {
    const n = replicas > 2 ? 2 : 4;
    commands[1].command = `docker compose exec ${serviceOf(cluster)} balanza reload`;
    commands.push({ name: 'scale', command: `docker compose --profile cluster up -d --no-recreate --scale replica=${n}`, place: '' });
    commands.push({ name: 'list', command: 'docker compose ps', place: '' });
  } else {
    commands.push({ name: 'list', command: `docker exec ${cluster.host} balanza ps`, place: place(cluster) });
  }
  return commands;
}

/** Copies a command. Where a browser does not allow it, as with plain http, the command is selected for Ctrl+C. */
async function copy(button, code) {
  let copied = true;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    copied = document.execCommand('copy');
  }
  const { done, selected } = button.dataset;
  button.textContent = copied ? done : selected;
  $('announcement').textContent = button.textContent;
  setTimeout(() => { button.textContent = button.dataset.copy; }, COPIED_TIME);
}
