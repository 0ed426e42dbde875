-- May all of this happen now? The buckets of one request, decided together and spent all or none.
-- The formula and its terms are gcra.py's; the clock is the store's, so that every instance has the same one.
--
-- Call    EVALSHA gcra <n> KEYS ARGV
-- KEYS    n different buckets, each a string: its TAT, whole microseconds since the epoch; absent when empty
-- ARGV[1] "spend" takes 1 from each bucket, "peek" only looks
-- ARGV    then per bucket, in the order of KEYS:
--           interval   emission interval, microseconds
--           burst      how many an empty bucket takes
--           enforce    "1": its refusal refuses the whole request, and nothing is spent; "0": it is observed only,
--                      takes when it can, and refuses nobody
-- Returns flat integers: now (microseconds since the epoch), then per bucket
--           allowed    1 if this bucket by itself would take one, 0 if not
--           remaining  how many more it takes, after what was spent here
--           retry      microseconds until it would take one; 0 if allowed
--           reset      microseconds until it is empty
--           tat        microseconds since the epoch when it is empty

local mode = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local buckets = {}
local refused = false
for i, key in ipairs(KEYS) do
  local interval, burst, enforce = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]), ARGV[3 * i + 1] == '1'
  local drain = interval * burst
  local tat = tonumber(redis.call('GET', key) or 0)
  tat = math.min(math.max(tat, now), now + drain)
  local early = tat + interval - drain - now
  refused = refused or (enforce and early > 0)
  buckets[i] = {key = key, interval = interval, drain = drain, tat = tat, early = early}
end

local answer = {now}
for _, bucket in ipairs(buckets) do
  if mode == 'spend' and not refused and bucket.early <= 0 then
    bucket.tat = bucket.tat + bucket.interval
    -- A bucket that is empty again needs no memory: it expires then, up to a millisecond late, never early.
    -- %.0f, because a double prints as 1.7e+15.
    local ms = math.ceil((bucket.tat - now) / 1000)
    redis.call('SET', bucket.key, string.format('%.0f', bucket.tat), 'PX', string.format('%.0f', ms))
  end
  answer[#answer + 1] = bucket.early <= 0 and 1 or 0
  answer[#answer + 1] = math.floor((now + bucket.drain - bucket.tat) / bucket.interval)
  answer[#answer + 1] = math.max(bucket.early, 0)
  answer[#answer + 1] = bucket.tat - now
  answer[#answer + 1] = bucket.tat
end
return answer
