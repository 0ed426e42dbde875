-- The blocks that administrators have added. One step each; the time is the store's.
--
--   EVALSHA blocks 1 KEY read SEEN               -> { now, version, field, text, … }; { now, SEEN } when nothing changed
--   EVALSHA blocks 1 KEY add FIELD MS NAME MOST  -> { now, until }; { now, -1 } when there are MOST of them
--   EVALSHA blocks 1 KEY remove FIELD…           -> { now, how many were there }
--
-- KEY: a hash. Field -> "UNTIL NAME": until when, in milliseconds since the epoch, 0 for no end; and how it is shown.
-- Its field "version" is another text after each change, the microseconds of it: after a fail-over, too.

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[1] == 'read' then
  local version = redis.call('HGET', key, 'version') or ''
  if version == ARGV[2] then
    return { now, version }
  end
  local reply = { now, version }
  local flat = redis.call('HGETALL', key)
  for at = 1, #flat, 2 do
    if flat[at] ~= 'version' then
      reply[#reply + 1] = flat[at]
      reply[#reply + 1] = flat[at + 1]
    end
  end
  return reply
end

local function is_over(text)
  local until_ms = tonumber(string.match(text, '^%d+'))
  return until_ms ~= 0 and until_ms <= now
end

local count = 0
local flat = redis.call('HGETALL', key)
for at = 1, #flat, 2 do
  if flat[at] ~= 'version' then
    if is_over(flat[at + 1]) then
      redis.call('HDEL', key, flat[at])
    else
      count = count + 1
    end
  end
end

local answer
if ARGV[1] == 'add' then
  local field, for_ms, name, most = ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
  if count >= most and redis.call('HEXISTS', key, field) == 0 then
    return { now, -1 }
  end
  answer = 0
  if for_ms > 0 then
    answer = now + for_ms
  end
  redis.call('HSET', key, field, string.format('%.0f %s', answer, name))
else
  answer = 0
  for at = 2, #ARGV do
    answer = answer + redis.call('HDEL', key, ARGV[at])
  end
end
redis.call('HSET', key, 'version', time[1] .. string.format('%06d', time[2]))
return { now, answer }
