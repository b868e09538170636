'use strict';
// Talks to the REST interface beside it. All text goes in as text, never as markup.
const at = (id) => document.getElementById(id);
const make = (name, text) => { const made = document.createElement(name); made.textContent = text ?? ''; return made; };
let key = sessionStorage.getItem('key'), next = null;

const say = (text, wrong) => { at('message').textContent = text; at('message').className = wrong ? 'wrong' : ''; };

async function ask(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { Authorization: 'Bearer ' + key, ...(body && { 'Content-Type': 'application/json', 'Idempotency-Key': crypto.randomUUID() }) },
    body: body && JSON.stringify(body),
  });
  if (answer.status === 204) return null;
  const json = await answer.json();
  if (answer.ok) return json;
  if (answer.status === 401) signOut();
  const about = json.field || json.parameter;
  throw new Error(json.detail + (about ? ' (' + about + ')' : ''));
}

const name = (customer) => customer.name.display || [customer.name.given, customer.name.family].filter(Boolean).join(' ') || '(no name)';

async function people(more) {
  const query = new URLSearchParams({ limit: '20', order: '-created_at' });
  if (at('filter').value.trim()) query.set('filter', at('filter').value.trim());
  if (more && next) query.set('cursor', next);
  const page = await ask('GET', 'customers?' + query);
  if (!more) at('people').replaceChildren();
  for (const customer of page.items) {
    const row = make('tr');
    row.append(make('td', name(customer)), make('td', customer.email), make('td', customer.phone),
      make('td', customer.addresses[0]?.city), make('td', customer.created_at.slice(0, 10)));
    row.tabIndex = 0;
    row.onclick = () => open(customer.id).catch(failed);
    row.onkeydown = (event) => { if (event.key === 'Enter') row.onclick(); };
    at('people').append(row);
  }
  next = page.next;
  at('more').hidden = !next;
}

async function segments() {
  const page = await ask('GET', 'segments?limit=100');
  const all = await Promise.all(page.items.map((segment) => ask('GET', 'segments/' + segment.id)));
  const most = Math.max(1, ...all.map((segment) => segment.members));
  at('segments').replaceChildren(...all.map((segment) => {
    const row = make('div'), bar = make('meter');
    row.className = 'segment';
    row.title = segment.filter ?? segment.kind;
    [bar.max, bar.value] = [most, segment.members];
    row.append(make('span', segment.name), make('span', segment.members), bar);
    return row;
  }));
}

async function open(id) {
  const [customer, timeline] = await Promise.all([ask('GET', 'customers/' + id), ask('GET', 'customers/' + id + '/timeline?limit=20')]);
  at('one-name').textContent = name(customer);
  at('one-json').textContent = JSON.stringify(customer, null, 2);
  at('one-timeline').replaceChildren(...timeline.items.map((event) => make('li', event.at.slice(0, 16).replace('T', ' ') + '  ' + event.kind)));
  at('one').hidden = false;
  at('one').scrollIntoView();
}

const failed = (error) => say(error.message, true);
const refresh = async () => { await people(false); await segments(); };

async function signIn() {
  at('login').hidden = true;
  at('logout').hidden = at('desk').hidden = false;
  await refresh();
}

function signOut() {
  key = null;
  sessionStorage.removeItem('key');
  at('login').hidden = false;
  at('logout').hidden = at('desk').hidden = true;
}

const on = (id, event, act) => at(id).addEventListener(event, (happened) => {
  happened.preventDefault();
  say('');
  Promise.resolve(act(happened)).catch(failed);
});
const said = (form) => Object.fromEntries([...new FormData(form)].map(([field, value]) => [field, value.trim()]).filter(([, value]) => value));

on('login', 'submit', () => { key = at('key').value.trim(); at('key').value = ''; sessionStorage.setItem('key', key); return signIn(); });
on('logout', 'click', signOut);
on('search', 'submit', () => people(false));
on('more', 'click', () => people(true));
on('new-customer', 'submit', async ({ target }) => {
  const made = await ask('POST', 'customers', said(target));
  target.reset();
  await refresh();
  say(name(made) + ' was added.');
});
on('new-segment', 'submit', async ({ target }) => {
  const made = await ask('POST', 'segments', said(target));
  target.reset();
  await segments();
  say(made.name + ' was made.');
});
if (key) signIn().catch(failed);
