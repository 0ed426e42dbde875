# make demo   the whole story on this machine, in a browser
# make test   everything that must hold: format, lint, types, tests, a smoke run of the demo
# Both set themselves up in .venv, from PyPI only.
# make test-pythons   `make test` on every Python from 3.11 to 3.14 that is here (on Debian, as root, it installs Debian's)
# make bench-pass     the cost of passing, beside other proxies (wrk, nginx, curl; Caddy by go, Fastify by npm, where there are)
# make bench-send bench-verify  the cost of a guarded send and of a verify, beside Express by hand (nginx, node, npm)
# make bench-flood    what a flood does to everybody else, beside Express and nginx (wrk)
# make bench-overload whether it sheds or sinks when it is offered more than it can carry
# make bench-oracle   whether the time of an answer tells that a number is known
# make bench-limits   what a decision of two buckets costs, beside throttled-py and limits (PyPI)
# make fuzz-proxy     coverage-guided fuzzing of both ends of the proxy path, FUZZ_SECONDS=3600
# make fuzz-time      small inputs that cost much, searched by what they cost, FUZZ_SECONDS=3600
# make mutants        changes one place of the program at a time, and says which change no test notices; an hour
# make soak           faults switched on and off at 70 % of capacity, and what is left behind then; SOAK_SECONDS=3600, and its picture
# make bench-slots    what one slot of a cluster carries: the store's CPU time for each step; a few minutes
# make bench-scale    what a request costs as workers and the store's primaries grow; docs/scaling.md is worked out of it (nginx)
# make bench-lists    what an asn_file of 420,000 networks costs
# make bench-slider   what solvers achieve against the slider's pictures (OpenCV, in a venv of its own); about fifteen minutes
# make bench-start    how soon it is ready, and what memory it holds then
# make bench-router   how soon a message arrives when vendors fail; about four minutes
# make bench-captcha  what a flood pays for each message, and what a person: its table and picture; about a minute
# make bench-routing  a simulated year under each strategy, and its picture; about a minute
# make bench-pumping  two simulated weeks of sign-ups with SMS pumping in them, and their picture; about ten minutes
# make test-backends  the ways round the gate, tried on real backends (from PyPI, npm and Go; PHP, Ruby, Perl and Tomcat from Debian, as root)
# make test-browser   the pages in a real Chromium, which it installs where it may (Debian, as root)

PYTHON ?= python3
VENV := .venv
PYTEST :=
BIN := $(VENV)/bin
PORT ?= 8080

.PHONY: demo test mutants test-pythons test-backends test-browser bench-router bench-routing bench-pumping bench-captcha bench-pass bench-send bench-verify bench-flood bench-overload bench-oracle bench-limits bench-slots bench-scale bench-lists bench-slider bench-start soak fuzz-proxy fuzz-time version-before format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/signup-sidecar demo --port $(PORT)

# The tests share what is compiled with the sidecars that they start. PYTEST="-n 2 --dist worksteal" runs them in two processes.
test: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest $(PYTEST)
	PYTHONDONTWRITEBYTECODE= $(BIN)/signup-sidecar demo --smoke

test-pythons:
	@tests/pythons.sh --install | while read -r version python; do \
	  echo "== Python $$version"; $(MAKE) test PYTHON=$$python VENV=.venv-$$version || exit 1; done

test-browser: $(VENV)/.installed-dev
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "skipped: no chromium on PATH, and it cannot be installed here (apt-get install chromium, as root)"
	@test -d .bench/node/node_modules/axe-core || { mkdir -p .bench/node && \
	  npm install --prefix .bench/node --no-audit --no-fund --silent axe-core@4; } \
	  || echo "skipped: axe-core cannot be fetched (npm install axe-core), so nobody looks at the pages as axe does"
	@! command -v chromium >/dev/null || $(BIN)/pytest -m browser

# What cannot be fetched is left out, and its tests are skipped with the reason.
BACKENDS := .bench/backends
test-backends: $(VENV)/.installed-dev
	@mkdir -p $(BACKENDS)/node $(BACKENDS)/go
	-@test -f $(BACKENDS)/venv/.fetched || { $(PYTHON) -m venv $(BACKENDS)/venv && $(BACKENDS)/venv/bin/pip install --quiet \
	  --disable-pip-version-check gunicorn flask waitress daphne django uvicorn hypercorn fastapi python-multipart bottle cherrypy tornado \
	  aiohttp uwsgi && touch $(BACKENDS)/venv/.fetched; }
	-@test -d $(BACKENDS)/old || $(BACKENDS)/venv/bin/pip install --quiet --disable-pip-version-check --target $(BACKENDS)/old \
	  gunicorn==20.1.0 'setuptools<80'
	-@! command -v npm >/dev/null || test -d $(BACKENDS)/node/node_modules/fastify || \
	  npm install --prefix $(BACKENDS)/node --no-audit --no-fund --silent express@5 method-override@3 koa koa-bodyparser @koa/router \
	  fastify @fastify/formbody
	-@! command -v go >/dev/null || test $(BACKENDS)/go/gin_app -nt tests/backends/apps/gin_app.go || { cp tests/backends/apps/gin_app.go $(BACKENDS)/go/main.go && \
	  cd $(BACKENDS)/go && export GOFLAGS=-modcacherw GOPATH=$$PWD/path && { test -f go.mod || go mod init backends; } 2>/dev/null && \
	  go get github.com/gin-gonic/gin@v1.10.0 2>/dev/null && go build -o gin_app main.go; }
	-@{ command -v php && command -v puma && command -v mojo && test -e /usr/share/java/tomcat10-embed-core.jar; } >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get install -y -qq --no-install-recommends php-cli php-symfony-http-foundation php-symfony-routing puma ruby-sinatra \
	  ruby-actionpack libmojolicious-perl libtomcat10-embed-java libtomcat10-java >/dev/null; }
	-@! command -v javac >/dev/null || javac -nowarn -cp /usr/share/java/tomcat10-embed-core.jar -d $(BACKENDS)/java \
	  tests/backends/apps/TomcatApp.java 2>/dev/null
	$(BIN)/pytest -m backends -rs tests/backends

# The rivals go into .bench, which git ignores; what cannot be fetched is left out and named.
bench-pass: $(VENV)/.installed
	@mkdir -p .bench/node
	-@command -v go >/dev/null && ! test -x .bench/bin/caddy && \
	  GOFLAGS=-modcacherw GOBIN=$(CURDIR)/.bench/bin GOPATH=$(CURDIR)/.bench/go go install github.com/caddyserver/caddy/v2/cmd/caddy@latest
	-@command -v npm >/dev/null && ! test -d .bench/node/node_modules/fastify && \
	  npm install --prefix .bench/node --no-audit --no-fund --silent fastify@5 @fastify/http-proxy@11
	$(BIN)/python bench/bench_pass.py $(BENCH)

# `make bench-send BENCH="--seconds 2 --runs 1 --only ours"` measures a change; `BENCH=--profile` shows where its time goes.
EXPRESS := express@5 rate-limiter-flexible@11 ioredis@5 undici@7 jose@6
bench-send bench-verify bench-flood bench-overload bench-oracle: $(VENV)/.installed
	@mkdir -p .bench/node
	-@command -v npm >/dev/null && ! test -d .bench/node/node_modules/jose && \
	  npm install --prefix .bench/node --no-audit --no-fund --silent $(EXPRESS)
	$(BIN)/python bench/$(subst -,_,$@).py $(BENCH)

# In a venv of its own: throttled-py wants an older redis-py than the sidecar.
bench-limits: $(VENV)/.installed
	-@test -f .bench/limits/.fetched || { $(PYTHON) -m venv .bench/limits && .bench/limits/bin/pip install --quiet \
	  --disable-pip-version-check uvloop 'throttled-py[redis]>=3.5,<4' 'limits>=5.8,<6' 'redis[hiredis]<8' && touch .bench/limits/.fetched; }
	$(BIN)/python bench/bench_limits.py $(BENCH)

bench-slots: $(VENV)/.installed
	$(BIN)/python bench/slots.py $(BENCH)

bench-scale: $(VENV)/.installed
	$(BIN)/python bench/bench_scale.py $(BENCH)

bench-lists: $(VENV)/.installed
	$(BIN)/python bench/bench_lists.py $(BENCH)

bench-slider: $(VENV)/.installed
	@test -x .bench/solver/bin/python || $(PYTHON) -m venv .bench/solver
	@.bench/solver/bin/pip install --quiet --disable-pip-version-check 'opencv-python-headless>=4.10,<6'
	$(BIN)/python bench/slider.py $(BENCH)
	.bench/solver/bin/python bench/slider_solver.py .bench/slider

bench-start: $(VENV)/.installed
	$(BIN)/python bench/start.py $(BENCH)

# `make soak SOAK_SECONDS=400 SOAK="--only store,worker"` is a short one, of the faults with these words.
SOAK_SECONDS ?= 3600
soak: $(VENV)/.installed
	@test -x .venv-bench/bin/python || { $(PYTHON) -m venv .venv-bench && .venv-bench/bin/pip install --quiet matplotlib; }
	$(BIN)/python bench/soak.py --seconds $(SOAK_SECONDS) --out $(VENV)/soak.json $(SOAK); code=$$?; \
	  .venv-bench/bin/python bench/soak_plot.py $(VENV)/soak.json docs/images/soak.svg; exit $$code

FUZZ_SECONDS ?= 3600
fuzz-proxy: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3,<4'
	@mkdir -p .bench/corpus
	$(BIN)/python bench/fuzz_proxy.py -max_total_time=$(FUZZ_SECONDS) -timeout=20 -max_len=2048 -dict=bench/fuzz.dict -artifact_prefix=.bench/ .bench/corpus

fuzz-time: $(VENV)/.installed-dev
	$(BIN)/python bench/fuzz_time.py --seconds=$(FUZZ_SECONDS)

mutants: $(VENV)/.installed-dev
	$(BIN)/python bench/mutants.py $(MUTANTS)

bench-router: $(VENV)/.installed-dev
	$(BIN)/python bench/router.py

bench-routing: $(VENV)/.installed-dev
	$(BIN)/python bench/routing.py --out $(VENV)/routing.json
	@test -x .venv-bench/bin/python || { $(PYTHON) -m venv .venv-bench && .venv-bench/bin/pip install --quiet matplotlib; }
	.venv-bench/bin/python bench/routing.py --plot $(VENV)/routing.json docs/images/routing.png

bench-captcha: $(VENV)/.installed-dev
	$(BIN)/python bench/captcha_cost.py --out $(VENV)/captcha_cost.json
	@test -x .venv-bench/bin/python || { $(PYTHON) -m venv .venv-bench && .venv-bench/bin/pip install --quiet matplotlib; }
	.venv-bench/bin/python bench/captcha_cost.py --plot $(VENV)/captcha_cost.json docs/images/captcha-cost.png

bench-pumping: $(VENV)/.installed-dev
	$(BIN)/python bench/bench_pumping.py --out $(VENV)/pumping.json $(BENCH)
	@test -x .venv-bench/bin/python || { $(PYTHON) -m venv .venv-bench && .venv-bench/bin/pip install --quiet matplotlib; }
	PYTHONPATH=. .venv-bench/bin/python bench/bench_pumping.py --plot $(VENV)/pumping.json docs/images/pumping.png

# The package as it is committed, for the test that runs the version before beside the next one.
version-before:
	git archive --format=tar HEAD sidecar | xz -9e > tests/data/versions/$$(git log -1 --format=%cs).tar.xz

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A Debian without python3-venv has no ensurepip; it is one package, and the message says so.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Signup Sidecar needs Python 3.11 or newer; set PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed: install python3-venv, or set PYTHON=…" >&2; exit 1; }

$(VENV)/.installed: pyproject.toml build_hook.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# pip reads [dependency-groups] from 25.1 on; an older one is lifted inside .venv first.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

clean:
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis
