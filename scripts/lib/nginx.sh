# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# nginx: a static site with a robots.txt for the crawler's tests, and a few answers that hurt.

nginx_commands="nginx curl"
nginx_packages="nginx curl"
nginx_signal=TERM

nginx_prepare() { :; }

nginx_start() {
  local home=$DIR/nginx user port worker=""
  user=$(unprivileged nobody)
  port=$(pick_port 6)
  printf '%s\n' "$port" >"$home/port"
  folder "$user" "$home/scratch"
  mkdir -p "$home/site" "$home/logs"
  nginx_site "$home/site" "http://127.0.0.1:$port"
  if ((EUID == 0)); then
    worker="user $user $(id -gn "$user");"
    # The tests add pages of their own, so the site belongs to whoever called us.
    chown -R "${SUDO_UID:-0}:${SUDO_GID:-0}" "$home/site"
  fi
  cat >"$home/nginx.conf" <<CFG
$worker
worker_processes 1;
daemon off;
pid $home/nginx.pid;
error_log $home/logs/error.log;
events { worker_connections 512; }
http {
  types { text/html html; text/plain txt; application/xml xml; text/csv csv; text/vcard vcf; application/json json; }
  default_type application/octet-stream;
  charset utf-8;
  log_format hits '\$msec \$request_method \$request_uri \$status \$body_bytes_sent "\$http_user_agent"';
  access_log $home/logs/access.log hits;
  client_body_temp_path $home/scratch/body; proxy_temp_path $home/scratch/proxy;
  fastcgi_temp_path $home/scratch/fastcgi; uwsgi_temp_path $home/scratch/uwsgi; scgi_temp_path $home/scratch/scgi;
  limit_req_zone \$binary_remote_addr zone=slow:1m rate=2r/s;
  server {
    listen 127.0.0.1:$port;
    root $home/site;
    index index.html;
    etag on;
    gzip on;
    gzip_types text/plain application/xml;
    location ~ ^/moved/(\d+)\$ { return 302 /people/\$1.html; }
    location /limited/ { limit_req zone=slow; limit_req_status 429; add_header Retry-After 1 always; }
    location /trickle/ { limit_rate 2k; }
    location = /drop { return 444; }
    location = /error { return 503; }
    location = /denied { return 403; }
  }
}
CFG
  launch nginx root "$(command -v nginx)" -p "$home" -e "$home/logs/error.log" -c "$home/nginx.conf"
  await nginx 20 nginx_ready
  setting nginx OPEN_CRM_TEST_NGINX_URL "http://127.0.0.1:$port"
  setting nginx OPEN_CRM_TEST_NGINX_ROOT "$home/site"
  setting nginx OPEN_CRM_TEST_NGINX_ACCESS_LOG "$home/logs/access.log"
}

# Forty people over forty pages, ten to a list page. /private/ is linked and forbidden; whoever asks for it was rude.
nginx_site() {
  local root=$1 url=$2 person list
  mkdir -p "$root"/{people,team,private,limited,trickle}
  cat >"$root/robots.txt" <<TXT
User-agent: *
Disallow: /private/
Allow: /private/open.html

User-agent: rude-bot
Disallow: /

Sitemap: $url/sitemap.xml
TXT
  {
    printf '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Test company</title></head><body>\n'
    for list in 1 2 3 4; do printf '<a href="/team/%d.html">Team %d</a>\n' "$list" "$list"; done
    printf '<a href="/private/secret.html">Private</a> <a href="/private/open.html">Open</a> <a href="/moved/7">Moved</a>\n</body></html>\n'
  } >"$root/index.html"
  for list in 1 2 3 4; do
    {
      printf '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Team %d</title></head><body><ul>\n' "$list"
      for ((person = list * 10 - 9; person <= list * 10; person++)); do
        printf '<li><a href="../people/%d.html">Person %d</a></li>\n' "$person" "$person"
      done
      printf '</ul><a href="/">Home</a></body></html>\n'
    } >"$root/team/$list.html"
  done
  for ((person = 1; person <= 40; person++)); do
    cat >"$root/people/$person.html" <<HTML
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Person $person</title></head>
<body><div class="person" itemscope itemtype="https://schema.org/Person">
<h1 itemprop="name">Person Número $person</h1>
<a itemprop="email" href="mailto:person$person@test.example">person$person@test.example</a>
<a itemprop="telephone" href="tel:+49301234$(printf '%04d' "$person")">+49 30 1234$(printf '%04d' "$person")</a>
<span itemprop="addressLocality">Berlin</span></div><a href="/">Home</a></body></html>
HTML
  done
  {
    printf '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    for ((person = 1; person <= 40; person++)); do printf '<url><loc>%s/people/%d.html</loc></url>\n' "$url" "$person"; done
    printf '</urlset>\n'
  } >"$root/sitemap.xml"
  printf '<!doctype html><title>Secret</title><a href="mailto:secret@test.example">never to be read</a>\n' >"$root/private/secret.html"
  printf '<!doctype html><title>Open</title><a href="mailto:open@test.example">allowed</a>\n' >"$root/private/open.html"
  printf '<!doctype html><title>Limited</title>two a second\n' >"$root/limited/page.html"
  head -c 20000 /dev/zero | tr '\0' 'x' >"$root/trickle/page.html"
}

nginx_ready() {
  curl --silent --fail --noproxy '*' --max-time 3 "http://127.0.0.1:$(<"$DIR/nginx/port")/robots.txt" | grep -q '^Disallow: /private/'
}
