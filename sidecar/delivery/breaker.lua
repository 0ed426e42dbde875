-- Move breakers, all workers' in one place. The moves are breaker.py's; the clock is the store's.
--
-- Call    EVALSHA breaker 1 KEYS ARGV
-- KEYS[1] breakers   hash: "PROVIDER|SEGMENT" -> "STATE GENERATION RUN WINDOW UNTIL", the window "-" when empty
-- ARGV[1] "record"   counts results; then per result: field, generation, "1" fine or "0" failed, failures in a row
--                    that open it, milliseconds it is open for
--         "probe"    claims the one probe; then: field, milliseconds the probe may take, and that any breaker waits at most
--         "read"     moves nothing
-- Returns now (milliseconds since the epoch), then
--         record     per result the breaker's text
--         probe      1 or 0, and the breaker's text
--         read       every field and its text

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local NEXT = {
  ['closed tripped'] = 'open',
  ['open probed'] = 'half_open',
  ['half_open probed'] = 'half_open',
  ['open fine'] = 'closed',
  ['half_open fine'] = 'closed',
  ['half_open failed'] = 'open',
}

local function load(field)
  local text = redis.call('HGET', KEYS[1], field) or 'closed 0 0 - 0'
  local state, generation, run, window, till = string.match(text, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
  if window == '-' then
    window = ''
  end
  return {
    state = state,
    generation = tonumber(generation),
    run = tonumber(run),
    window = window,
    till = tonumber(till),
  }
end

local function save(field, b)
  local window = b.window
  if window == '' then
    window = '-'
  end
  local text = string.format('%s %.0f %.0f %s %.0f', b.state, b.generation, b.run, window, b.till)
  redis.call('HSET', KEYS[1], field, text)
  return text
end

local function move(b, event, till)
  local state = NEXT[b.state .. ' ' .. event]
  if not state then
    return
  end
  b.state, b.generation, b.run, b.window = state, b.generation + 1, 0, ''
  b.till = state == 'closed' and 0 or till
end

local answer = {now}
if ARGV[1] == 'read' then
  for _, word in ipairs(redis.call('HGETALL', KEYS[1])) do
    answer[#answer + 1] = word
  end
elseif ARGV[1] == 'probe' then
  local b = load(ARGV[2])
  -- Further away than any breaker waits: the clock was set back.
  local won = b.state ~= 'closed' and not (now < b.till and b.till <= now + tonumber(ARGV[4]))
  if won then
    move(b, 'probed', now + tonumber(ARGV[3]))
  end
  answer[2], answer[3] = won and 1 or 0, save(ARGV[2], b)
else
  for i = 2, #ARGV, 5 do
    local b = load(ARGV[i])
    local fine, till = ARGV[i + 2] == '1', now + tonumber(ARGV[i + 4])
    if tonumber(ARGV[i + 1]) == b.generation then
      if b.state ~= 'closed' then
        move(b, fine and 'fine' or 'failed', till)
      else
        b.run = fine and 0 or b.run + 1
        b.window = string.sub(b.window .. ARGV[i + 2], -20)
        local _, failed = string.gsub(b.window, '0', '')
        if b.run >= tonumber(ARGV[i + 3]) or (#b.window == 20 and failed >= 10) then
          move(b, 'tripped', till)
        end
      end
    end
    answer[#answer + 1] = save(ARGV[i], b)
  end
end
return answer
