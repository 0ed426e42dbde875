-- Add to what was seen of providers, fading what was there. The formula is score.py's, the clock the store's.
--
-- KEYS[1] seen    hash: "PROVIDER|SEGMENT" -> "TRIED IN_TIME DUE CONFIRMED AT", AT in milliseconds since the epoch
-- ARGV[1] half life, seconds
-- ARGV    then per sighting: field, what is added to tried, in_time, due, confirmed
--
-- Returns now (milliseconds since the epoch), then every field and its text.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

for i = 2, #ARGV, 5 do
  local text = redis.call('HGET', KEYS[1], ARGV[i]) or ('0 0 0 0 ' .. string.format('%.0f', now))
  local old = {}
  for word in string.gmatch(text, '%S+') do
    old[#old + 1] = tonumber(word)
  end
  local left = 0.5 ^ (math.max(0, now - old[5]) / 1000 / tonumber(ARGV[1]))
  local new = {}
  for j = 1, 4 do
    new[j] = string.format('%.6f', old[j] * left + tonumber(ARGV[i + j]))
  end
  new[5] = string.format('%.0f', now)
  redis.call('HSET', KEYS[1], ARGV[i], table.concat(new, ' '))
end
local answer = {now}
for _, word in ipairs(redis.call('HGETALL', KEYS[1])) do
  answer[#answer + 1] = word
end
return answer
