-- How much is asked for just now? Three counts that fade: of one asker, of its site, of all.
-- The formula is load.py's; the clock is the store's, so that every instance has the same one.
--
-- Call    EVALSHA load 3 KEYS ARGV
-- KEYS    the asker's, its site's and all's count, each a string "COUNT AT": what it was at AT, microseconds since the
--         epoch; absent for nothing
-- ARGV[1] to [3] how long each takes to fade to 1/e, milliseconds
-- ARGV[4] what is given: added to the asker's count, and to its site's; the less, the more the asker's is over ARGV[6]
-- ARGV[5] what is solved: added to all's count
-- ARGV[6] how much is usual for one asker
-- Returns the three counts, in thousandths

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- A count below this is nothing, and needs no memory.
local least = 0.05

local function faded(i)
  local count, at = string.match(redis.call('GET', KEYS[i]) or '', '^(%S+) (%S+)$')
  -- A clock that was set back makes nothing grow.
  return count and tonumber(count) * math.exp(-math.max(0, now - tonumber(at)) / 1000 / tonumber(ARGV[i])) or 0
end

local counts = {faded(1), faded(2), faded(3)}
local given, solved = tonumber(ARGV[4]), tonumber(ARGV[5])
counts[1] = counts[1] + given
local added = {given, given > 0 and given * math.min(1, tonumber(ARGV[6]) / counts[1]) or 0, solved}
counts[2] = counts[2] + added[2]
counts[3] = counts[3] + added[3]

local answer = {}
for i = 1, 3 do
  if added[i] > 0 then
    local lives = math.ceil(tonumber(ARGV[i]) * math.log(math.max(counts[i], 1) / least))
    redis.call('SET', KEYS[i], string.format('%.6f %.0f', counts[i], now), 'PX', string.format('%.0f', lives))
  end
  answer[i] = math.floor(counts[i] * 1000 + 0.5)
end
return answer
